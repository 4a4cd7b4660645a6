"""Generator of the tables, from the real classes on the meta device: ``python -m lorica.models.generate``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from inspect import getmodule
from typing import Any, cast

import diffusers
import torch
import transformers
from torch import Tensor, nn

from lorica.models import FAMILIES
from lorica.models.clip import with_wrapper
from lorica.models.folding import Folded, Shape, fold, fold_names
from lorica.models.index import FILE, describe_index
from lorica.models.published import Network, Published
from lorica.models.target import FOLDER, Family, Target

# What training adapts by default, as far as the component has it: the attention.
TARGETS = (
    "*.to_q", "*.to_k", "*.to_v", "*.to_out.0", "*.add_q_proj", "*.add_k_proj", "*.add_v_proj", "*.to_add_out",
    "*.q_proj", "*.k_proj", "*.v_proj", "*.out_proj",
    "*.SelfAttention.q", "*.SelfAttention.k", "*.SelfAttention.v", "*.SelfAttention.o",
)  # fmt: skip
_BLOCK_LISTS = ("blocks", "layers", "refiner", "encoder.block")  # how the names of lists of blocks end


def main() -> None:
    """Write every table."""
    for name, family in FAMILIES.items():
        (FOLDER / f"{name}.json").write_text(to_text(describe(family.published)), "utf-8")
    FILE.write_text(index_to_text(describe_index(targets())), "utf-8")


def targets() -> dict[str, Target]:
    """Target of every family, as the files have it now."""
    return {name: Family(name).target for name in FAMILIES}


def describe(published: Published) -> dict[str, Any]:
    """Table of a family whose components have the published configurations."""
    with torch.device("meta"):
        parts = {name: build(network) for name, network in published.networks.items()}
    return {
        "default_targets": {name: targets_of(part) for name, part in parts.items()},
        "block_order": {name: fold_names(blocks_of(part)) for name, part in parts.items()},
        "components": {name: fold(shapes_of(part)) for name, part in parts.items()},
    }


def shapes_of(part: nn.Module) -> dict[str, Shape]:
    """Path and weight shape of every module that has a weight of its own."""
    weights = {path: getattr(module, "weight", None) for path, module in part.named_modules()}
    return {with_wrapper(path): tuple(weight.shape) for path, weight in weights.items() if isinstance(weight, Tensor)}


def targets_of(part: nn.Module) -> list[str]:
    """Globs of the attention's projections that the component has."""
    paths = shapes_of(part)
    return [glob for glob in TARGETS if any(path.endswith(glob.removeprefix("*")) for path in paths)]


def blocks_of(part: nn.Module) -> list[str]:
    """Paths of the blocks, input to output; a UNet has its first and last convolution too."""
    if isinstance(part, diffusers.UNet2DConditionModel):
        order = [*_numbered("down_blocks", part.down_blocks), "mid_block", *_numbered("up_blocks", part.up_blocks)]
        return ["conv_in", *order, "conv_out"]
    lists = {path: module for path, module in part.named_modules() if isinstance(module, nn.ModuleList)}
    return [
        with_wrapper(block)
        for path, blocks in lists.items()
        if path.endswith(_BLOCK_LISTS) and not any(path.startswith(f"{outer}.") for outer in lists)
        for block in _numbered(path, blocks)
    ]


def index_to_text(index: Mapping[str, Any]) -> str:
    """Index as JSON with one name per line."""
    entries = ",\n".join(f"{json.dumps(name)}: {json.dumps(found)}" for name, found in index["entries"].items())
    return f'{{\n"networks": {json.dumps(index["networks"])},\n"entries": {{\n{entries}\n}}}}\n'


def build(network: Network) -> nn.Module:
    """Network with random weights, on torch's current device."""
    kind = _class(network.kind)
    if not issubclass(kind, transformers.PreTrainedModel):
        return kind(**network.config)
    settings: Any = kind.config_class
    return kind(settings(**network.config))


def to_text(table: Mapping[str, Any]) -> str:
    """Table as JSON with one module per line, so that a difference between versions can be read."""
    head = [f"{json.dumps(key)}: {_head(value)}" for key, value in table.items() if key != "components"]
    parts = [f"{json.dumps(name)}: {{\n{_lines(modules)}\n}}" for name, modules in table["components"].items()]
    return "{\n" + ",\n".join([*head, '"components": {' + ",\n".join(parts) + "}"]) + "\n}\n"


def _class(name: str) -> Any:
    """Class of diffusers or transformers; one is not public and is found beside its pipeline."""
    if name == "WuerstchenPrior":
        return getattr(getmodule(diffusers.WuerstchenPriorPipeline), name)
    return getattr(diffusers, name, None) or getattr(transformers, name)


def _lines(modules: Folded, indent: str = "") -> str:
    """One line for each module; the content of a run of blocks is indented below it."""
    return ",\n".join(f"{indent}{json.dumps(path)}: {_value(value, indent)}" for path, value in modules.items())


def _value(value: Any, indent: str) -> str:
    if isinstance(value, Mapping):
        return f"{{\n{_lines(cast('Folded', value), indent + ' ')}}}"
    return json.dumps(value, separators=(",", ":"))


def _numbered(name: str, blocks: nn.ModuleList) -> list[str]:
    return [f"{name}.{index}" for index in range(len(blocks))]


def _head(value: Any) -> str:
    if not isinstance(value, Mapping):
        return json.dumps(value)
    lines = (f" {json.dumps(key)}: {json.dumps(each)}" for key, each in cast("Mapping[str, Any]", value).items())
    return "{\n" + ",\n".join(lines) + "\n}"


if __name__ == "__main__":
    main()
