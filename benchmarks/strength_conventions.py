"""How far apart the ways of weakening DoRA and BOFT are, and what a wrong axis costs: the numbers of decision 0010.

Run: python benchmarks/strength_conventions.py [--small]. Prints the numbers, and stores nothing.

Every number is relative to the size of the change at strength 1. Seeded; one second on a CPU.
"""

from __future__ import annotations

import torch
from reporting import parser_of
from torch import Tensor

from lorica.adapters import BOFT, DoRA, LoRA
from lorica.adapters.rotation import butterfly, cayley, skew
from lorica.models import FAMILIES

SIZE, SMALL, RANK, STRENGTHS = 320, 64, 8, (0.0, 0.25, 0.5, 1.0)
STAGES, BLOCK = 4, 8  # of the butterfly


def main() -> None:
    """Print the tables."""
    size = SMALL if parser_of(__doc__).parse_args().small else SIZE
    torch.manual_seed(0)
    weight = torch.randn(size, size) / size**0.5
    inner = LoRA(torch.randn(RANK, size) / 8, torch.randn(size, RANK) / 20, RANK)
    magnitude = torch.linalg.vector_norm(weight, dim=1, keepdim=True) * (1 + 0.1 * torch.randn(size, 1))
    print_dora(weight, inner, magnitude)
    print_boft(weight)
    for family in ("sd1", "sdxl"):
        kernels = [shape for shape in FAMILIES[family].target.components["unet"].values() if len(shape) == 4]
        square = sum(shape[0] == shape[1] for shape in kernels)
        print(f"{family}: {square} of {len(kernels)} convolutions of the U-Net have as many inputs as outputs")


def print_dora(weight: Tensor, inner: LoRA, magnitude: Tensor) -> None:
    """Print how far three conventions are from the straight line, and two mistakes at strength 1."""
    change = DoRA(inner, magnitude).delta(weight)
    move = inner.delta(weight)
    stretch = magnitude / torch.linalg.vector_norm(weight + move, dim=1, keepdim=True)
    for s in STRENGTHS:
        straight = weight + s * change
        only_stretch = (weight + move) * (s * (stretch - 1) + 1)
        moved = weight + s * move
        only_move = magnitude * moved / torch.linalg.vector_norm(moved, dim=1, keepdim=True)
        distances = [(other - straight).norm() / change.norm() for other in (only_stretch, only_move)]
        print(f"DoRA, strength {s}: on the stretch (LyCORIS) {distances[0]:.2f}, on the move (PEFT) {distances[1]:.2f}")
    wrong_axis = DoRA(inner, magnitude.flatten(), axis="input").delta(weight)
    base_length = magnitude * (weight + move) / torch.linalg.vector_norm(weight, dim=1, keepdim=True) - weight
    for name, other in (("the other axis", wrong_axis), ("the length of the base (ComfyUI)", base_length)):
        print(f"DoRA, strength 1, {name}: {(other - change).norm() / change.norm():.2f}")


def print_boft(weight: Tensor) -> None:
    """Print how far turning every stage part of the way is from the straight line."""
    layer = BOFT(torch.randn(STAGES, len(weight) // BLOCK, BLOCK, BLOCK) * 0.05)
    change, q = layer.delta(weight), skew(layer.tensors["blocks"])
    for s in STRENGTHS:
        stages = butterfly(weight.T, s * cayley(q)).T
        print(f"BOFT, strength {s}: by stages (LyCORIS) {(stages - s * change).norm() / change.norm():.2f}")


if __name__ == "__main__":
    main()
