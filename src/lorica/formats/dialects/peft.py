"""The format of PEFT itself: ``base_model.model.<path>.lora_A.weight``, and ``adapter_config.json`` beside the file.

A folder is one model's adapter. The configuration says the alphas, and how the tensors of some methods are meant; it is
kept in the metadata too, so that a file that was moved away from its folder still has it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lorica.adapters import Adapter, AdapterLayer
from lorica.errors import FormatError
from lorica.formats.account import Account, spelling_of
from lorica.formats.dialects.dialect import Dialect, Parsed
from lorica.formats.dialects.paths import COMPONENTS, read_paths
from lorica.formats.keys_to_modules import FileModules, Keys, Split, group, split_dotted
from lorica.formats.methods import METHODS
from lorica.formats.methods.leaves import leaf_tables
from lorica.formats.methods.method import Form, Method
from lorica.formats.methods.peft import PeftModule, PeftPlan
from lorica.formats.names import Location
from lorica.formats.peft_config import CONFIG_FILE, parse_adapter_config
from lorica.formats.storage.files import FileContents
from lorica.formats.writing import Writer, refusal, refuse_embeddings
from lorica.models import Target
from lorica.models.folding import Shape

_START = "base_model.model."


class _Peft(Dialect):
    def recognises(self, keys: Keys) -> bool:
        return keys.start(_START) and not keys.start(*(f"{_START}{component}." for component in COMPONENTS))

    def parse(self, contents: FileContents, target: Target | None, account: Account) -> Parsed:
        config, strengths = None, None
        if CONFIG_FILE in contents.metadata:
            config, strengths = parse_adapter_config(contents.metadata[CONFIG_FILE], contents.source)

        def alpha(_component: str, path: str, rank: int) -> float | None:
            return strengths.alpha_of(path, rank) if strengths else None

        modules = FileModules(contents, _split(contents, target, account))
        paths = read_paths(target, set(), modules, account, _home(contents, target))
        revise = _revision(config or {})
        return Parsed(modules, paths.find, paths.target, alpha, paths.known, zero_is_rank=False, revise=revise)

    def compose(self, adapter: Adapter, target: Target | None) -> tuple[dict[str, Tensor], Mapping[str, str]]:
        refuse_embeddings(adapter, self.name)
        if len(adapter.components) > 1:
            raise FormatError(
                f"the {self.name} format holds the adapter of one model, and this one changes "
                f"{', '.join(adapter.components)}. Use format='diffusers'."
            )
        ((component, layers),) = adapter.components.items()
        plan = _plan(layers, target.components.get(component, {}) if target else {})
        if plan.refused:
            raise refusal(self.name, {f"{component}.{path}": reason for path, reason in plan.refused.items()})
        writer = Writer(
            self.name,
            leaf_tables().peft,
            spelling_of(adapter, self.name),
            with_alpha=False,
            zero_alpha=True,
            special=_special,
        )
        writer.add_component(component, layers, {f"{_START}{path}": Location.of(component, path) for path in layers})
        return {**writer.finish(), **plan.shared}, {CONFIG_FILE: json.dumps(plan.config, indent=2, sort_keys=True)}


def peft_settings(layers: Mapping[str, AdapterLayer]) -> dict[str, Any]:
    """What says in a configuration which methods the layers are of."""
    kinds = {layer.kind for layer in layers.values()} & METHODS.keys()
    return {name: value for kind in kinds for name, value in METHODS[kind].peft_settings.items()}


def _special(layer: AdapterLayer, name: str) -> Form | None:
    return METHODS[layer.kind].to_peft(layer, name)


def _revision(config: Mapping[str, Any]) -> Callable[[str, AdapterLayer, Shape | None], AdapterLayer | str]:
    """From a layer, as its tensors alone tell it, to the one that the configuration means, or why there is none.

    The same tensors mean other changes under other options: how a rotation is computed, which axis a factor is of.
    """

    def revise(path: str, layer: AdapterLayer, shape: Shape | None) -> AdapterLayer | str:
        method = METHODS[layer.kind]
        if not method.peft_options:
            return layer
        if config.get("fan_in_fan_out"):
            return f"its {CONFIG_FILE} says fan_in_fan_out, a weight stored transposed, which cannot be read."
        return method.from_peft(layer, PeftModule(config, path, shape))

    return revise


def _plan(layers: Mapping[str, AdapterLayer], shapes: Mapping[str, Shape]) -> PeftPlan:
    """How PEFT holds the layers of one model, whose weights have these shapes, as far as they are known."""
    kinds = {layer.kind for layer in layers.values()}
    held = [method.kind for method in METHODS.values() if method.peft_type]
    if not kinds <= {*held}:
        strange = {path: layer.kind for path, layer in layers.items() if layer.kind not in held}
        written = f"and the format is written for {', '.join(held)} layers alone."
        return PeftPlan(refused={path: f"it is a {kind} layer, {written}" for path, kind in strange.items()})
    if len(kinds) > 1:
        reason = f"the format holds one method, and this adapter has several: {', '.join(sorted(kinds))}."
        return PeftPlan(refused=dict.fromkeys(layers, reason))
    method = METHODS[kinds.pop()]
    plan = method.peft_plan(layers, shapes)
    fixed = {"inference_mode": True, "base_model_name_or_path": None, "peft_type": method.peft_type}
    return plan if plan.refused else PeftPlan({**fixed, **plan.config}, plan.shared)


def _split(contents: FileContents, target: Target | None, account: Account) -> Split:
    """Each key with its module and its meaning; tensors that modules share, once for each that needs them."""
    shared = {method: _shared(method, contents) for method in METHODS.values() if method.peft_shared}
    common = {key for keys in shared.values() for key in keys.values()}
    own = list(split_dotted({key: None for key in contents.tensors if key not in common}, account))
    modules = group(own, contents.source)
    left: set[str] = set()
    for method, keys in shared.items():
        needing = {name for name, leaves in modules.items() if method.meanings() & leaves.keys()}
        reason = _without_shared(method, keys, needing, target)
        if reason:
            account.leave([*(key for name in needing for key in modules[name].values()), *keys.values()], reason)
            left |= needing
        else:
            yield from ((key, name, method.meaning(leaf)) for name in needing for leaf, key in keys.items())
    yield from (each for each in own if each[1] not in left)


def _shared(method: Method[Any], contents: FileContents) -> dict[str, str]:
    return {name: key for name, key in method.peft_shared.items() if key in contents.tensors}


def _without_shared(
    method: Method[Any], keys: Mapping[str, str], needing: set[str], target: Target | None
) -> str | None:
    """The reason why tensors that modules share, or the modules that need them, cannot be read."""
    if not needing:
        return f"no module of the file is of a {method.kind} layer, which alone needs it."
    if len(keys) < len(method.peft_shared):
        return method.peft_lacking
    if target is None:
        which = "only the model tells which part is this module's. Name the target."
        return f"the matrices of a {method.kind} are shared, and {which}"
    return None


def _home(contents: FileContents, target: Target | None) -> str | None:
    """The component that a file is for: the target's only one, or the one that its folder is called."""
    if target is not None and len(target.components) == 1:
        return next(iter(target.components))
    folder = Path(contents.source).parent.name
    known = COMPONENTS if target is None else tuple(target.components)
    return folder if folder in known else None


PEFT = _Peft(name="peft")
