"""Memory that a run takes, estimated from shapes before anything is trained (decision 0019)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lorica.adapters import Adapter
from lorica.printing import readable_bytes
from lorica.training.adapter import put_adapter
from lorica.training.config.adapter import AdapterSettings, ComputeSettings
from lorica.training.config.optimizer import OptimizerSettings
from lorica.training.device import autocast
from lorica.training.memory.live_bytes import LiveBytes
from lorica.training.recipes.load import PACKED_BITS
from lorica.training.recipes.recipe import Conditioning, Recipe

FACTOR = 4 + 4  # bytes of a trained number and of its gradient
STATE = {"adamw": 8.0, "adamw8bit": 2.1, "prodigy": 16.0, "adafactor": 0.1}  # bytes of optimizer state a number
USUAL_STATE = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on the device that trains.

    Args:
        base: the networks that stay there.
        adapter: the factors, their gradients, the state of the optimizer, and the running mean.
        step: peak of one forward and backward pass.
        encoding: all networks, and the peak of encoding one picture, before training.
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
        """The estimate in a line."""
        parts = ", ".join(f"{readable_bytes(size)} {name}" for name, size in asdict(self).items())
        return f"about {readable_bytes(self.peak)} of memory at the peak ({parts})"


class MicroBatch(NamedTuple):
    """Samples that are computed at once: their number, their side in pixels, and the precision."""

    samples: int
    side: int
    precision: torch.dtype


def estimate_memory(
    recipe: Recipe,
    batch: MicroBatch,
    adapter: AdapterSettings,
    compute: ComputeSettings,
    optimizer: OptimizerSettings,
    initial: Adapter | None = None,
) -> Memory:
    """Estimate a run by its first picture and its first step, computed without values.

    Args:
        recipe: the model, before an adapter is put on it and before its base is packed.
        batch: one micro-batch; frames of other shapes have about as many pixels.
        adapter: the adapter.
        compute: precision of the base, and whether activations are computed again.
        optimizer: the optimizer and the running mean.
        initial: the adapter that the run goes on from, if there is one.
    """
    conditioning = recipe.encode_text("")
    device = next(next(iter(recipe.components.values())).parameters()).device
    networks = list[nn.Module]()
    with LiveBytes() as live:

        def shapes_of(network: nn.Module) -> nn.Module:
            networks.append(network)
            return live.shapes_of(network)

        shapes = recipe.with_networks(shapes_of)
        latents = shapes.encode_picture(torch.zeros(3, batch.side, batch.side)).mean
        encoding = live.peak
        trainable = put_adapter(shapes.components, adapter, compute, "", initial)
        with autocast(device.type, batch.precision):
            rows = {name: live.like(row) for name, row in conditioning.items()}
            step = _one_pass(live, shapes, latents.to(device), rows, batch.samples)
        numbers = sum(parameter.numel() for parameter in trainable.parameters())
    trained = sum(_bytes_of(network, compute.base_precision) for network in recipe.components.values())
    unpacked = sum(_bytes_of(network, None) for network in recipe.components.values())
    everything = sum(_bytes_of(network, None) for network in networks)
    stays = everything - unpacked + trained if device.type == "cpu" else trained  # the encoders move to the CPU
    state = 4 * optimizer.use_ema + STATE.get(optimizer.optimizer.lower(), USUAL_STATE)
    return Memory(
        base=stays,
        adapter=round(numbers * (FACTOR + state)),
        step=step,
        encoding=everything + encoding,
    )


def _one_pass(live: LiveBytes, recipe: Recipe, latents: Tensor, conditioning: Conditioning, batch: int) -> int:
    """Peak of one micro-batch, forward and backward."""
    before = live.now
    live.peak = before
    noisy = latents.expand(batch, *latents.shape).contiguous()
    rows = {name: row.to(latents.device).expand(batch, *row.shape).contiguous() for name, row in conditioning.items()}
    time = torch.zeros(batch, dtype=torch.long, device=latents.device)
    recipe.predict(noisy, time, rows).square().mean().backward()
    return live.peak - before


def _bytes_of(network: nn.Module, packed: str | None) -> int:
    """Size of a network's weights, those of its linear layers packed if they are to be."""
    bits = PACKED_BITS.get(packed or "")
    small = {id(layer.weight) for layer in network.modules() if isinstance(layer, nn.Linear)} if bits else set[int]()
    return sum(_size(tensor, bits if id(tensor) in small else None) for tensor in _tensors(network))


def _tensors(network: nn.Module) -> Iterable[Tensor]:
    yield from network.parameters()
    yield from network.buffers()


def _size(tensor: Tensor, bits: float | None) -> int:
    return tensor.numel() * tensor.element_size() if bits is None else round(tensor.numel() * bits / 8)
