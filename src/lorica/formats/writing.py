"""From the layers of an adapter to named tensors: what every format that is written shares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lorica.adapters import Adapter, AdapterLayer
from lorica.errors import FormatError, ShapeError
from lorica.formats.methods import peft_bias
from lorica.formats.methods.fused import join
from lorica.formats.methods.layers import PEFT_MAGNITUDE
from lorica.formats.methods.recipes import WITHOUT_ALPHA, alike, build, leaves_of
from lorica.formats.names import flat_names, number_parts
from lorica.formats.places import Place, Shape, whole
from lorica.formats.spelling import Spelling
from lorica.models import Target
from lorica.models.clip import spellings, with_wrapper
from lorica.models.spellings import spellings_of

SHOWN = 5  # layers that a refusal lists
# The leaves that Kohya's scripts and LyCORIS write, by meaning; other formats differ in some.
LYCORIS_LEAVES: dict[str, str] = {
    "lora.down": "lora_down.weight",
    "lora.up": "lora_up.weight",
    "lora.mid": "lora_mid.weight",
    "lora.bias_indices": "bias_indices",
    "lora.bias_values": "bias_values",
    "lora.bias_size": "bias_size",
    "loha.w1_a": "hada_w1_a",
    "loha.w1_b": "hada_w1_b",
    "loha.w2_a": "hada_w2_a",
    "loha.w2_b": "hada_w2_b",
    "loha.t1": "hada_t1",
    "loha.t2": "hada_t2",
    "lokr.w1": "lokr_w1",
    "lokr.w1_a": "lokr_w1_a",
    "lokr.w1_b": "lokr_w1_b",
    "lokr.w2": "lokr_w2",
    "lokr.w2_a": "lokr_w2_a",
    "lokr.w2_b": "lokr_w2_b",
    "lokr.t2": "lokr_t2",
    "glora.a1": "a1.weight",
    "glora.a2": "a2.weight",
    "glora.b1": "b1.weight",
    "glora.b2": "b2.weight",
    "glora.mid": "bm.weight",
    "ia3.scale": "weight",
    "ia3.on_input": "on_input",
    "oft.blocks": "oft_blocks",
    "oft.rotations": "oft_diag",
    "oft.rescale": "rescale",
    "oft_v2.vectors": "oft_R.weight",
    "oft_v2.scaled": "oft_R.scaled_oft",
    "full.diff": "diff",
    "set_weight.weight": "set_weight",
    "norm.diff": "w_norm",
    "norm.bias": "b_norm",
    "bias": "diff_b",
    "magnitude": "dora_scale",
    "alpha": "alpha",
}
# The leaves that PEFT writes for a LoRA.
PEFT_LEAVES: dict[str, str] = {
    "lora.down": "lora_A.weight",
    "lora.up": "lora_B.weight",
    "bias": peft_bias.LEAF,
    "magnitude": PEFT_MAGNITUDE,
}


@dataclass(slots=True)
class Writer:
    """The tensors of a file that is being composed, and what it cannot hold.

    Args:
        format: the format's name, for messages.
        leaves: meaning to what the format writes behind a module's name and a dot.
        spelling: how the adapter was spelled when it was read; kept where it still holds.
        with_alpha: whether each module has a key for its alpha.
        zero_alpha: whether an alpha of 0 is one, and not the rank.
    """

    format: str
    leaves: Mapping[str, str]
    spelling: Spelling = field(default_factory=Spelling)
    with_alpha: bool = True
    zero_alpha: bool = False
    tensors: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    refused: dict[str, str] = field(default_factory=dict[str, str])

    def add_component(self, component: str, layers: Mapping[str, AdapterLayer], names: Mapping[str, Place]) -> None:
        """Add the layers of one component under their names in the file: those it was read with, else the given."""
        name_of = {**_by_path(names), **_by_path(self.spelling.names_in(component, layers))}
        places = {**names, **self.spelling.places}
        groups: dict[str, dict[str, AdapterLayer]] = {}
        for path, layer in layers.items():
            name = next((name_of[spelling] for spelling in spellings(path) if spelling in name_of), None)
            if name is None:
                self.refused[f"{component}.{path}"] = "the format has no name for this module."
            else:
                groups.setdefault(name, {})[path] = layer
        for name, parts in groups.items():
            joined = next(iter(parts.values())) if places[name].is_whole else join(parts, places[name])
            if isinstance(joined, str):
                self.refused[" and ".join(f"{component}.{path}" for path in parts)] = joined
            else:
                self.add(name, joined)

    def add(self, name: str, layer: AdapterLayer) -> None:
        """Add one layer under its name in the file."""
        spelled = self.spelling.tensors_of(name, layer, told=not self.with_alpha or layer.kind in WITHOUT_ALPHA)
        if spelled is not None:
            self.tensors.update(spelled)
            return
        leaves = leaves_of(layer)
        if "magnitude" in leaves and self.leaves.get("magnitude") == PEFT_MAGNITUDE:
            self._turn_magnitude(name, layer, leaves)
        strange = [leaf for leaf in leaves if leaf not in self.leaves]
        if not strange and not self._comes_back(layer, leaves):
            self.refused[name] = f"it is a {layer.kind} layer that would be read as another one: {layer!r:.300}."
        if "bias" in leaves and self.leaves.get("bias") == peft_bias.LEAF:
            bias = peft_bias.unscaled_bias(layer) if "lora.down" in leaves else None  # PEFT has it beside a LoRA only
            strange = [*strange, *(["bias"] if bias is None else [])]
            leaves["bias"] = leaves["bias"] if bias is None else bias
        if strange == ["bias"] and "lora.down" in leaves:
            self.refused[name] = (
                f"the format stores a bias divided by its scaling, {layer.alpha:g} / {layer.rank}, and there is none "
                "that gives this one again exactly."
            )
        elif strange:
            self.refused[name] = f"it is a {layer.kind} layer, and the format has no name for its {strange[0]!r}."
        elif self.with_alpha and layer.kind not in WITHOUT_ALPHA:
            if layer.alpha == 0 and not self.zero_alpha and layer.kind not in ("oft", "boft"):
                self.refused[name] = "it has alpha 0, which such files mean the rank by; leave the layer out instead."
            leaves["alpha"] = exact_scalar(layer.alpha, next(iter(layer.tensors.values())).dtype)
        self.tensors.update({f"{name}.{self.leaves[leaf]}": leaves[leaf] for leaf in leaves if not strange})

    def _comes_back(self, layer: AdapterLayer, leaves: Mapping[str, Tensor]) -> bool:
        axis = "output" if self.leaves.get("magnitude") == PEFT_MAGNITUDE else None
        try:
            return alike(build(leaves, layer.alpha, layer.weight_shape, axis), layer)
        except (FormatError, ShapeError):
            return False

    def _turn_magnitude(self, name: str, layer: AdapterLayer, leaves: dict[str, Tensor]) -> None:
        """Give a DoRA magnitude the shape that PEFT has: ``(out,)``, and ``(1, out, 1, ...)`` for a convolution."""
        if layer.axis == "input":  # type: ignore[attr-defined]
            self.refused[name] = "its DoRA magnitudes are of inputs, and the format's are of outputs."
        kernel = [1] * (len(layer.weight_shape) - 2)
        leaves["magnitude"] = leaves["magnitude"].reshape([1, -1, *kernel] if kernel else [-1])

    def finish(self) -> dict[str, Tensor]:
        """Return the tensors.

        Raises:
            FormatError: listing what the format cannot hold.
        """
        if self.refused:
            raise refusal(self.format, self.refused)
        return self.tensors


def _by_path(names: Mapping[str, Place]) -> dict[str, str]:
    return {spelling: name for name, place in names.items() for path in place.paths() for spelling in spellings(path)}


def refusal(format_name: str, refused: Mapping[str, str]) -> FormatError:
    """Return the error that lists what a format cannot hold, and why."""
    shown = [f"{name}: {reason}" for name, reason in list(refused.items())[:SHOWN]]
    if len(refused) > SHOWN:
        shown.append(f"and {len(refused) - SHOWN} more")
    lines = "\n  ".join(shown)
    return FormatError(f"the {format_name} format cannot hold all of this adapter, so nothing was written.\n  {lines}")


def refuse_embeddings(adapter: Adapter, format_name: str) -> None:
    """Refuse an adapter with embeddings.

    Raises:
        FormatError: if it has some.
    """
    if adapter.embeddings:
        tokens = ", ".join(adapter.embeddings)
        raise FormatError(f"the {format_name} format holds no embeddings, and this adapter has some: {tokens}.")


def shapes_for(adapter: Adapter, component: str, model: Target | None) -> dict[str, Shape]:
    """Return the modules of a component: the model's, and those of the adapter in the spelling that files carry."""
    known = dict(model.components.get(component, {})) if model else {}
    own = {
        with_wrapper(path): layer.weight_shape
        for path, layer in adapter.components.get(component, {}).items()
        if not any(spelling in known for spelling in spellings(path))
    }
    return {**known, **own}


def names_for(
    shapes: Mapping[str, Shape], component: str, styles: Iterable[str], *, numbered: bool = False
) -> dict[str, Place]:
    """Return the dotted name of every module, in the first of the styles that the model has, else its own path.

    Args:
        shapes: the modules.
        component: the component that they are of.
        styles: the styles, the best first.
        numbered: whether the parts of a fused weight have names of their own.
    """
    known = spellings_of(shapes)
    style = next((known[style] for style in styles if style in known), None)
    names = {name: Place(component, parts) for name, parts in (style.table(shapes) if style else {}).items()}
    names = number_parts(names) if numbered else names
    named = {path for place in names.values() for path in place.paths()}
    return {**names, **{with_wrapper(path): whole(component, path) for path in shapes if path not in named}}


def flat_or_dotted(names: Mapping[str, Place], start: str, joint: str) -> dict[str, Place]:
    """Return the names behind a prefix, with something else for the dots.

    Raises:
        FormatError: if two modules then share a name, naming both.
    """
    if joint == ".":
        return {f"{start}.{name}" if start else name: place for name, place in names.items()}
    return {flat: names[name] for flat, name in flat_names(names, start).items()}


def exact_scalar(value: float, dtype: torch.dtype) -> Tensor:
    """Return a number as a tensor of the given dtype if that holds it exactly, else of 32 or 64 bits."""
    for kind in (dtype, torch.float32):
        number = torch.tensor(value, dtype=kind, device="cpu")
        if number.item() == value:
            return number
    return torch.tensor(value, dtype=torch.float64, device="cpu")
