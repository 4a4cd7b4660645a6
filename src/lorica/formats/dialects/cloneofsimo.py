"""The format of cloneofsimo/lora: ``unet:0:up``, ``unet:0:down``, numbered in the order of the model's modules.

The names say no module, only a place in the order in which that program walked the model: so the model must be known.
It walked the Linear layers of the attentions and of the GEGLU; in diffusers of that time the GEGLU stood between the
two attentions of a block, and now stands behind them: the order whose sizes fit is taken. There are no alphas.

A ``.pt`` file is the bare list, up and down by turns: read as these names, of the text encoder if its own ends in
``.text_encoder.pt``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from lorica.errors import FormatError
from lorica.formats.account import Account
from lorica.formats.dialects.dialect import Dialect, Parsed
from lorica.formats.keys_to_modules import FileModules, Keys, Leaves, Split
from lorica.formats.names import Location
from lorica.formats.storage.files import FileContents
from lorica.models import FAMILIES, Target
from lorica.models.folding import Shape

_KEY = re.compile(r"(?P<component>unet|text_encoder):(?P<number>\d+):(?P<half>up|down)")
_FIRST = {"unet:0:up", "text_encoder:0:up", "unet:0:down", "text_encoder:0:down"}
_EMBEDDING = "<embed>"  # the metadata's value for a token's vectors, which have the token for a key
_BLOCK = re.compile(r"(?P<block>.+\.transformer_blocks\.\d+)\.(attn1|attn2|ff)\..+")
# What was walked: the attentions of the first files, and what the "extended" ones have beside them.
_LINEAR = re.compile(r".+\.(attn1|attn2)\.to_(q|k|v|out\.0)|.+\.ff\.net\.0\.proj")
_EXTENDED = re.compile(rf"{_LINEAR.pattern}|.+\.resnets\.\d+\.(conv1|conv2|time_emb_proj|conv_shortcut)")
_TEXT = re.compile(r".+\.self_attn\.(q|k|v|out)_proj")


class _Cloneofsimo(Dialect):
    def recognises(self, keys: Keys) -> bool:
        return keys.hold_key(*_FIRST)

    def parse(self, contents: FileContents, target: Target | None, account: Account) -> Parsed:
        modules = FileModules(contents, _split(contents, account))
        models = [target] if target else [FAMILIES["sd1"].target, FAMILIES["sd2"].target]
        found = next(filter(None, (_walk(contents, modules.leaves, model) for model in models)), None)
        if found is None:
            raise FormatError(
                f"{contents.source} numbers its {len(modules.leaves)} layers in the order of the model's modules, and "
                f"no order of {' or '.join(model.name for model in models)} has their sizes. "
                f"{'It is for another model.' if target else 'Pass target= for its base model.'}"
            )
        model, locations = found
        missing = f"the model has only {len(locations)} modules in that order."
        embeddings = {
            key: {"text_encoder": tensor}
            for key, tensor in contents.tensors.items()
            if contents.metadata.get(key) == _EMBEDDING
        }
        account.used.extend(embeddings)
        return Parsed(modules, lambda name: locations.get(name, missing), model, embeddings=embeddings)


def _split(contents: FileContents, account: Account) -> Split:
    for key in contents.tensors:
        found = _KEY.fullmatch(key)
        if found:
            yield key, f"{found['component']}:{found['number']}", f"lora.{found['half']}"
        elif contents.metadata.get(key) != _EMBEDDING:
            account.leave([key], "it is neither a numbered layer nor an embedding that the metadata names.")


def _walk(
    contents: FileContents, modules: Mapping[str, Leaves], model: Target
) -> tuple[Target, dict[str, Location]] | None:
    """The locations of the numbered layers, or None if no order of the model's modules has their sizes."""
    locations: dict[str, Location] = {}
    for component in dict.fromkeys(name.partition(":")[0] for name in modules):
        shapes = model.components.get(component, {})
        for order in ORDERS[component]:
            paths = order(list(shapes))
            named = {f"{component}:{number}": path for number, path in enumerate(paths)}
            if all(
                _fits(contents, leaves, shapes.get(named.get(name, "")))
                for name, leaves in modules.items()
                if name.startswith(f"{component}:")
            ):
                locations.update({name: Location.of(component, path) for name, path in named.items()})
                break
        else:
            return None
    return model, locations


def _fits(contents: FileContents, leaves: Leaves, shape: Shape | None) -> bool:
    if shape is None or not {"lora.up", "lora.down"} <= leaves.keys():
        return False
    up, down = contents.tensors[leaves["lora.up"]], contents.tensors[leaves["lora.down"]]
    return up.ndim > 1 and down.ndim > 1 and (up.shape[0], down.shape[1]) == tuple(shape[:2])


def _now(walked: re.Pattern[str]) -> Callable[[list[str]], list[str]]:
    return lambda paths: [path for path in paths if walked.fullmatch(path)]


def _then(walked: re.Pattern[str]) -> Callable[[list[str]], list[str]]:
    """The order of the time: in each block the first attention, the feed-forward, the second attention."""

    def order(paths: list[str]) -> list[str]:
        kept = _now(walked)(paths)
        first: dict[str, int] = {}
        for place, path in enumerate(kept):
            first.setdefault(_block(path), place)
        rank = {"attn1": 0, "ff": 1, "attn2": 2}
        return sorted(kept, key=lambda path: (first[_block(path)], rank.get(_part(path), 0)))

    return order


def _block(path: str) -> str:
    found = _BLOCK.fullmatch(path)
    return found["block"] if found else path


def _part(path: str) -> str:
    found = _BLOCK.fullmatch(path)
    return found[2] if found else ""


ORDERS: dict[str, tuple[Callable[[list[str]], list[str]], ...]] = {
    "unet": (_then(_LINEAR), _now(_LINEAR), _then(_EXTENDED), _now(_EXTENDED)),
    "text_encoder": (_now(_TEXT),),
}


CLONEOFSIMO = _Cloneofsimo(name="cloneofsimo")
