"""The format of PEFT itself: ``base_model.model.<path>.lora_A.weight``, and ``adapter_config.json`` beside the file.

A folder is one model's adapter. The configuration says the alphas; it is kept in the metadata too, so that a file that
was moved away from its folder still has it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from lorica.adapters import Adapter, AdapterLayer
from lorica.errors import FormatError
from lorica.formats.account import Account
from lorica.formats.dialect import Parsed
from lorica.formats.files import Stored
from lorica.formats.keys import Keys
from lorica.formats.layers import Leaves, group
from lorica.formats.leaves import split_dotted
from lorica.formats.paths import COMPONENTS, Paths
from lorica.formats.peft_config import CONFIG_FILE, make_config, parse_adapter_config
from lorica.formats.peft_methods import revision
from lorica.formats.places import Place, whole
from lorica.formats.spelling import spelling_of
from lorica.formats.writing import PEFT_LEAVES, Writer, refusal, refuse_embeddings
from lorica.models import Target

NAME = "peft"
_START = "base_model.model."
LEAVES = {**PEFT_LEAVES, **{f"loha.{leaf}": f"hada_{leaf}" for leaf in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")}}
# VeRA's matrices, once for all modules.
SHARED = {"vera.shared_a": "base_model.vera_A", "vera.shared_b": "base_model.vera_B"}
# The method that PEFT calls a layer's, by kind.
TYPES = {"lora": "LORA", "dora": "LORA", "loha": "LOHA"}


def recognises(keys: Keys) -> bool:
    """Tell whether any key begins as PEFT's do, with a module's path and no component's name behind it."""
    return keys.start(_START) and not keys.start(*(f"{_START}{component}." for component in COMPONENTS))


def parse(stored: Stored, target: Target | None, account: Account) -> Parsed:
    """Return the meaning of the keys; those of an adapter without a component are looked up in all."""
    paths = Paths(target, set())
    home = _home(stored, target)
    config, strengths = None, None
    if CONFIG_FILE in stored.metadata:
        config, strengths = parse_adapter_config(stored.metadata[CONFIG_FILE], stored.source)

    def locate(name: str) -> Place | str:
        path = name.removeprefix(_START)
        return paths.find_in(home, path) if home else paths.find(path)

    def alpha(_component: str, path: str, rank: int) -> float | None:
        return strengths.alpha_of(path, rank) if strengths else None

    modules = _with_shared(group(_split(stored, account), stored.source), stored, target, account)
    return Parsed(modules, locate, target, alpha, paths.known, zero_is_rank=False, revise=revision(config))


def compose(adapter: Adapter, target: Target | None) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Return the tensors under PEFT's names, and the configuration.

    Raises:
        FormatError: listing what the format cannot hold.
    """
    del target
    refuse_embeddings(adapter, NAME)
    if len(adapter.components) > 1:
        raise FormatError(
            f"the {NAME} format holds the adapter of one model, and this one changes {', '.join(adapter.components)}. "
            "Use format='diffusers'."
        )
    ((component, layers),) = adapter.components.items()
    strange = {path: layer.kind for path, layer in layers.items() if layer.kind not in TYPES}
    if strange:
        kinds = ", ".join(TYPES)
        reasons = {path: f"{kind}, and it is written for {kinds} layers alone" for path, kind in strange.items()}
        raise refusal(NAME, {f"{component}.{path}": reason for path, reason in reasons.items()})
    writer = Writer(NAME, LEAVES, spelling_of(adapter, NAME), with_alpha=False, zero_alpha=True)
    writer.add_component(component, layers, {f"{_START}{path}": whole(component, path) for path in layers})
    tensors = writer.finish()
    return tensors, {CONFIG_FILE: json.dumps(_config(layers), indent=2, sort_keys=True)}


def _split(stored: Stored, account: Account) -> Iterator[tuple[str, str, str]]:
    for key in stored.tensors:
        if key in SHARED.values():
            continue
        found = split_dotted(key)
        if found:
            yield key, *found
        else:
            account.leave([key], "its ending is none that this format knows.")


def _with_shared(
    modules: dict[str, Leaves], stored: Stored, target: Target | None, account: Account
) -> dict[str, Leaves]:
    """Return the modules with VeRA's two shared matrices among the leaves of each that needs them."""
    shared = {meaning: key for meaning, key in SHARED.items() if key in stored.tensors}
    needing = [name for name, leaves in modules.items() if "vera.lambda_b" in leaves]
    if not needing:
        account.leave(shared.values(), "no module of the file has the vectors of a VeRA.")
        return modules
    reason = None
    if len(shared) < len(SHARED):
        reason = "the shared matrices of its VeRA are not in the file (save_projection was False); save it with them."
    elif target is None:
        reason = "VeRA's matrices are shared, and only the model tells which part is this module's. Name the target."
    if reason is None:
        return {name: {**leaves, **shared} if name in needing else leaves for name, leaves in modules.items()}
    for name in needing:
        account.leave(modules[name].values(), reason)
    account.leave(shared.values(), reason)
    return {name: leaves for name, leaves in modules.items() if name not in needing}


def _home(stored: Stored, target: Target | None) -> str | None:
    """Return the component that a file is for: the target's only one, or the one that its folder is called."""
    if target is not None and len(target.components) == 1:
        return next(iter(target.components))
    folder = Path(stored.source).parent.name
    known = COMPONENTS if target is None else tuple(target.components)
    return folder if folder in known else None


def _config(layers: Mapping[str, AdapterLayer]) -> dict[str, object]:
    types = {TYPES[layer.kind] for layer in layers.values()}
    magnitudes = {layer.kind == "dora" for layer in layers.values()}
    if len(types) > 1 or len(magnitudes) > 1:
        kinds = ", ".join(sorted({layer.kind for layer in layers.values()}))
        raise FormatError(f"the {NAME} format holds one method, and this adapter has several: {kinds}.")
    (method,) = types
    config = {**make_config(layers), "peft_type": method, "inference_mode": True, "base_model_name_or_path": None}
    if method == "LORA":
        return {**config, "bias": "none", "use_rslora": False, "use_dora": magnitudes.pop(), "fan_in_fan_out": False}
    config["alpha"] = config.pop("lora_alpha")
    return {**config, "use_effective_conv2d": any("t1" in layer.tensors for layer in layers.values())}
