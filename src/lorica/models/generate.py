"""Make the tables in ``families/`` from the real classes on the meta device: ``python -m lorica.models.generate``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lorica.models.clip import with_wrapper
from lorica.models.folding import Folded, Shape, fold, fold_names
from lorica.models.published import PUBLISHED, Published
from lorica.models.table import FOLDER

UNET_TARGETS = ("*.to_q", "*.to_k", "*.to_v", "*.to_out.0")
TEXT_TARGETS = ("*.q_proj", "*.k_proj", "*.v_proj", "*.out_proj")


def main() -> None:
    """Write every table."""
    for name, published in PUBLISHED.items():
        (FOLDER / f"{name}.json").write_text(to_text(describe(published)), "utf-8")


def describe(published: Published) -> dict[str, Any]:
    """Return the table of a family whose components have the published configurations."""
    with torch.device("meta"):
        parts = {name: _build(name, config) for name, config in published.configs.items()}
    return {
        "title": published.title,
        "base_models": list(published.base_models),
        "default_targets": {name: list(UNET_TARGETS if name == "unet" else TEXT_TARGETS) for name in parts},
        "block_order": {name: fold_names(blocks_of(part)) for name, part in parts.items()},
        "components": {name: fold(shapes_of(part)) for name, part in parts.items()},
    }


def shapes_of(part: nn.Module) -> dict[str, Shape]:
    """Return the module path and weight shape of every module that has a weight of its own."""
    weights = {path: getattr(module, "weight", None) for path, module in part.named_modules()}
    return {with_wrapper(path): tuple(weight.shape) for path, weight in weights.items() if isinstance(weight, Tensor)}


def blocks_of(part: nn.Module) -> list[str]:
    """Return the paths of the blocks, input to output: a UNet's resnets and attentions, or a text encoder's layers."""
    if not isinstance(part, UNet2DConditionModel):
        return [with_wrapper(path) for path, _ in part.named_modules() if _parent(path).endswith("encoder.layers")]
    order = [*_numbered("down_blocks", part.down_blocks), "mid_block", *_numbered("up_blocks", part.up_blocks)]
    return ["conv_in", *order, "conv_out"]


def to_text(table: Mapping[str, Any]) -> str:
    """Return the table as JSON with one module a line, so that a difference between versions can be read."""
    head = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in table.items() if key != "components"]
    parts = [f"{json.dumps(name)}: {{\n{_lines(modules)}\n}}" for name, modules in table["components"].items()]
    return "{\n" + ",\n".join([*head, '"components": {' + ",\n".join(parts) + "}"]) + "\n}\n"


def _build(name: str, config: Mapping[str, Any]) -> nn.Module:
    if name == "unet":
        return UNet2DConditionModel(**config)
    kind = CLIPTextModelWithProjection if "projection_dim" in config else CLIPTextModel
    return kind(CLIPTextConfig(**config))


def _lines(modules: Folded, indent: str = "") -> str:
    """Return one line for each module; what each of a run of blocks holds stands indented below the run."""
    return ",\n".join(f"{indent}{json.dumps(path)}: {_value(value, indent)}" for path, value in modules.items())


def _value(value: Any, indent: str) -> str:
    if isinstance(value, Mapping):
        return f"{{\n{_lines(cast('Folded', value), indent + ' ')}}}"
    return json.dumps(value, separators=(",", ":"))


def _numbered(name: str, blocks: nn.ModuleList) -> list[str]:
    return [f"{name}.{index}" for index in range(len(blocks))]


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


if __name__ == "__main__":
    main()
