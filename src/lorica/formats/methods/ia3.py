"""IA3 in files: LyCORIS' ``weight`` with a switch for the axis, and PEFT's ``ia3_l``, whose configuration tells it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from lorica.adapters import IA3, AdapterLayer
from lorica.errors import ShapeError
from lorica.formats.methods.method import Form, Leaf, Method, ModuleTensors, switch
from lorica.formats.methods.peft import PeftModule, PeftPlan, refuse_biases
from lorica.formats.peft_config import CONFIG_FILE, expression, make_targets
from lorica.models.clip import spellings
from lorica.models.folding import Shape


class _IA3Method(Method[IA3]):
    def build(self, given: ModuleTensors) -> IA3:
        if "vector" in given.tensors:
            factors = given.tensors["vector"]  # of PEFT: they stand along the axis that they are of
            return IA3(factors, factors.shape[:1] == (1,), is_factor=True, bias=given.bias)
        told = given.tensors["on_input"]
        if told.numel() != 1:
            raise ShapeError(f"on_input has shape {tuple(told.shape)}; expected one number, 0 or 1.")
        return IA3(given.tensors["scale"], bool(told.item()), bias=given.bias)

    def forms(self, layer: IA3) -> Iterator[Form]:
        for form in super().forms(layer):
            yield {**form, "ia3.on_input": switch(layer.on_input)}
            if layer.is_factor:
                yield {"ia3.vector" if meaning == "ia3.scale" else meaning: tensor for meaning, tensor in form.items()}

    def heights(self, layer: IA3) -> dict[str, int]:
        return {} if layer.on_input else {"ia3.scale": 1}

    def from_peft(self, layer: IA3, told: PeftModule) -> AdapterLayer | str:
        scale, feedforward = layer.tensors["scale"], told.config.get("feedforward_modules")
        if feedforward is not None:
            on_input = any(_is_named(feedforward, path) for path in spellings(told.path))
            return IA3(scale, on_input, is_factor=True)
        if scale.ndim == 2:
            return layer
        return (
            f"only an {CONFIG_FILE} with feedforward_modules tells whether the factors of a convolution are of its "
            "inputs or of its outputs, and there is none."
        )

    def to_peft(self, layer: IA3, name: str) -> Form | None:
        del name
        return {"ia3_l": layer.tensors["scale"]}

    def peft_plan(self, layers: Mapping[str, IA3], shapes: Mapping[str, Shape]) -> PeftPlan:
        refused = refuse_biases(layers)
        for path, layer in layers.items():
            shape = tuple(layer.tensors["scale"].shape)
            if not layer.is_factor:
                refused[path] = (
                    "its numbers are differences from 1, as LyCORIS stores them, and PEFT's are the factors."
                )
            elif shape != _factors(layer, len(shapes.get(path, shape))):
                refused[path] = (
                    f"its numbers have shape {shape}, and PEFT's are (out, 1), (1, in) or (1, channels, 1, 1)."
                )
        on_inputs = [path for path, layer in layers.items() if layer.on_input]
        config = {"target_modules": make_targets(layers), "feedforward_modules": expression(on_inputs) or []}
        return PeftPlan({**config, "fan_in_fan_out": False}, refused=refused)


def _is_named(names: str | list[str], path: str) -> bool:
    """Whether a path is named: an expression names it whole, a list by its end."""
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    return any(path.endswith(name) for name in names)


def _factors(layer: IA3, dimensions: int) -> Shape:
    """The shape that PEFT has for the factors of a weight of that many dimensions."""
    count = layer.tensors["scale"].numel()
    if dimensions > 2:
        return (1, count, *[1] * (dimensions - 2))
    return (1, count) if layer.on_input else (count, 1)


IA3_METHOD = _IA3Method(
    layer=IA3,
    group="ia3",
    leaves=(
        Leaf("scale", "weight", beside="on_input"), Leaf("on_input", "on_input", is_flag=True),
        Leaf("vector", peft="ia3_l"),
    ),
    patterns=("scale on_input", "vector"),
    alpha=None,
    peft_type="IA3",
    peft_options=True,
)  # fmt: skip
