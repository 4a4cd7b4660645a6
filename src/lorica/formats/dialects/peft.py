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
from lorica.formats.dialects.dialect import Parsed
from lorica.formats.dialects.paths import COMPONENTS, Paths
from lorica.formats.keys import Keys
from lorica.formats.methods.layers import Leaves, group
from lorica.formats.methods.leaves import split_dotted
from lorica.formats.methods.peft_methods import CONV1D, revision
from lorica.formats.methods.peft_plans import VERA_SHARED, plan
from lorica.formats.peft_config import CONFIG_FILE, parse_adapter_config
from lorica.formats.places import Place, whole
from lorica.formats.spelling import spelling_of
from lorica.formats.storage.files import Stored
from lorica.formats.writing import LYCORIS_LEAVES, PEFT_LEAVES, Writer, refusal, refuse_embeddings
from lorica.models import Target

NAME = "peft"
_START = "base_model.model."
LEAVES = {
    **PEFT_LEAVES,
    **{meaning: leaf for meaning, leaf in LYCORIS_LEAVES.items() if meaning.startswith(("loha.", "lokr."))},
}
# A layer's kind to its tensors to their leaves, where the configuration holds the rest of it.
OWN_LEAVES = {
    "ia3": {"scale": "ia3_l"},
    "oft_v2": {"vectors": "oft_R.weight"},
    "vera": {"lambda_b": "vera_lambda_b", "lambda_d": "vera_lambda_d"},
}
# What the paths of embedding tables end in, which no shape tells from those of a Linear.
TABLES = ("token_embedding", "position_embedding", "embed_tokens", "shared", "relative_attention_bias")
# VeRA's matrices, once for all modules.
SHARED = {f"vera.{name}": key for name, key in VERA_SHARED.items()}


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
    refuse_embeddings(adapter, NAME)
    if len(adapter.components) > 1:
        raise FormatError(
            f"the {NAME} format holds the adapter of one model, and this one changes {', '.join(adapter.components)}. "
            "Use format='diffusers'."
        )
    ((component, layers),) = adapter.components.items()
    made = plan(layers, target.components.get(component, {}) if target else {})
    if made.refused:
        raise refusal(NAME, {f"{component}.{path}": reason for path, reason in made.refused.items()})
    writer = _Writer(NAME, LEAVES, spelling_of(adapter, NAME), with_alpha=False, zero_alpha=True)
    writer.add_component(component, layers, {f"{_START}{path}": whole(component, path) for path in layers})
    return {**writer.finish(), **made.shared}, {CONFIG_FILE: json.dumps(made.config, indent=2, sort_keys=True)}


class _Writer(Writer):
    """A writer that knows PEFT's own leaves, of layers whose settings the configuration holds."""

    __slots__ = ()

    def add(self, name: str, layer: AdapterLayer) -> None:
        """Add one layer under its name in the file."""
        if layer.kind in OWN_LEAVES:
            own = OWN_LEAVES[layer.kind]
            self.tensors.update({f"{name}.{leaf}": layer.tensors[tensor] for tensor, leaf in own.items()})
        elif layer.kind == "lora" and name.endswith(TABLES) and "bias" not in layer.tensors:
            down, up = layer.tensors["up"].T, layer.tensors["down"].T  # PEFT stores those of a table transposed
            self.tensors.update({f"{name}.lora_embedding_A": down, f"{name}.lora_embedding_B": up})
        else:
            super().add(name, layer)
            for core in {"t1", "t2"} & layer.tensors.keys() if layer.kind == "loha" else ():
                if layer.tensors[core].ndim == CONV1D:  # PEFT's have an axis more
                    self.tensors[f"{name}.{LEAVES[f'loha.{core}']}"] = layer.tensors[core].unsqueeze(-1)


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
