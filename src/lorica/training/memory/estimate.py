"""How much memory a run will take, estimated from shapes before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lorica.runtime.trainable.trainable import Trainable
from lorica.training.config.config import RunConfig
from lorica.training.config.per_layer import alphas_of, ranks_of
from lorica.training.loop import autocast
from lorica.training.memory.live_bytes import LiveBytes
from lorica.training.recipes.base import PACKED_BITS
from lorica.training.recipes.recipe import Conditioning, Recipe
from lorica.training.setup import choose_in_all, device_of, enable_checkpointing, order_channels, precision_of

FACTOR = 4 + 4  # bytes of a trained number and of its gradient
REMEMBERED = {"adamw": 8.0, "adamw8bit": 2.1, "prodigy": 16.0, "adafactor": 0.1}  # by the optimizer, of each number
USUALLY_REMEMBERED = 8.0
UNITS = ((2**30, "GB"), (2**20, "MB"), (2**10, "KB"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on the device that trains.

    Args:
        base: the networks that stay there.
        adapter: the factors, their gradients, what the optimizer remembers, and the running mean.
        step: what one pass forward and back holds at its peak.
        encoding: all networks, and what encoding one picture holds, before training.
    """

    base: int
    adapter: int
    step: int
    encoding: int

    @property
    def peak(self) -> int:
        """The most that the run holds at once."""
        return max(self.base + self.adapter + self.step, self.encoding)

    def describe(self) -> str:
        """Say it in a line."""
        parts = ", ".join(f"{readable_bytes(size)} {name}" for name, size in asdict(self).items())
        return f"about {readable_bytes(self.peak)} of memory at the peak ({parts})"


def estimate_memory(config: RunConfig, recipe: Recipe, accelerator: Accelerator, side: int) -> Memory:
    """Return what a run will take: its first picture and its first step are gone through without values.

    Args:
        config: the settings.
        recipe: the model, before an adapter is put on it and before its base is packed.
        accelerator: the device.
        side: that of the pictures, in pixels; frames of other shapes have about as many.
    """
    computing, device = precision_of(config, accelerator), device_of(accelerator)
    told = recipe.encode_text("")
    for part in recipe.components.values():  # as they will be
        order_channels(part)
    networks = list[nn.Module]()
    with LiveBytes() as live:

        def twin(network: nn.Module) -> nn.Module:
            networks.append(network)
            return live.twin(network)

        paper = recipe.with_networks(twin)
        latents = paper.encode_picture(torch.zeros(3, side, side)).mean
        encoding = live.peak
        trainable = _put_adapter(config, paper)
        with autocast(device.type, computing):
            step = _one_pass(
                live, paper, latents.to(device), {name: live.like(row) for name, row in told.items()}, config
            )
        numbers = sum(parameter.numel() for parameter in trainable.parameters())
    trained, everything = (
        sum(_bytes_of(part, packed) for part in parts)
        for parts, packed in ((recipe.components.values(), config.base_precision), (networks, None))
    )
    unpacked = sum(_bytes_of(part, None) for part in recipe.components.values())
    stays = everything - unpacked + trained if device.type == "cpu" else trained  # the encoders move to the CPU
    remembered = 4 * config.use_ema + REMEMBERED.get(config.optimizer.lower(), USUALLY_REMEMBERED)
    return Memory(
        base=stays,
        adapter=round(numbers * (FACTOR + remembered)),
        step=step,
        encoding=everything + encoding,
    )


def readable_bytes(count: int) -> str:
    """Return a number of bytes as people say it."""
    for size, unit in UNITS:
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def _put_adapter(config: RunConfig, paper: Recipe) -> Trainable:
    parts = dict(paper.components)
    modules = choose_in_all(parts, config.target_modules)
    if config.gradient_checkpointing:
        for part in parts.values():
            part.train()
            enable_checkpointing(part)
    trainable = Trainable(parts, modules, rank=ranks_of(config, modules), alpha=alphas_of(config, modules))
    if config.remember_less:
        trainable.remember_less()
    return trainable


def _one_pass(live: LiveBytes, paper: Recipe, latents: Tensor, told: Conditioning, config: RunConfig) -> int:
    """Go forward and back with one micro-batch; return the peak of what that holds."""
    batch = config.train_batch_size
    before = live.now
    live.peak = before
    noisy = latents.expand(batch, *latents.shape).contiguous()
    states = {name: row.to(latents.device).expand(batch, *row.shape).contiguous() for name, row in told.items()}
    time = torch.zeros(batch, dtype=torch.long, device=latents.device)
    paper.predict(noisy, time, states).square().mean().backward()
    return live.peak - before


def _bytes_of(part: nn.Module, packed: str | None) -> int:
    """Return the size of a network's weights, those of its linear layers packed if they are to be."""
    bits = PACKED_BITS.get(packed or "")
    small = {id(layer.weight) for layer in part.modules() if isinstance(layer, nn.Linear)} if bits else set[int]()
    return sum(_size(tensor, bits if id(tensor) in small else None) for tensor in _tensors(part))


def _tensors(part: nn.Module) -> Iterable[Tensor]:
    yield from part.parameters()
    yield from part.buffers()


def _size(tensor: Tensor, bits: float | None) -> int:
    return tensor.numel() * tensor.element_size() if bits is None else round(tensor.numel() * bits / 8)
