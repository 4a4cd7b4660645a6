"""A family's model with more inputs in its first layer, which adapters for inpainting and control are for.

FLUX.1 Canny and Depth take the picture and the hint together (128 channels in place of 64), inpainting models the mask
and what is behind it (9 in place of 4). The weights of the base are padded with zeros there; all else is the family's.
"""

from __future__ import annotations

from collections.abc import Iterable

from lorica.formats.places import Shape
from lorica.models import Target

FIRST_LAYERS = ("conv_in", "x_embedder", "patch_embedding", "pos_embed.proj")


def widened(model: Target, sizes: Iterable[tuple[str, str, Shape | None]]) -> Target:
    """Return a model with as many inputs in its first layer as an adapter has there, if those are more.

    Args:
        model: the model of a family.
        sizes: component, path, and outputs and inputs of the adapter's modules, as far as they are told.
    """
    for component, path, size in sizes:
        own = model.components.get(component, {}).get(path) if path in FIRST_LAYERS else None
        if own is not None and size is not None and is_wider(path, size, own):
            wide = {**model.components[component], path: (own[0], size[1], *own[2:])}
            return Target(f"{model.name} with {size[1]} inputs in {path}", {**model.components, component: wide})
    return model


def is_wider(path: str, size: Shape, own: Shape) -> bool:
    """Tell whether a weight is that of a model's first layer with more inputs."""
    return path in FIRST_LAYERS and size[:1] == own[:1] and size[1:2] > own[1:2]


def too_narrow(path: str, size: Shape, own: Shape) -> str:
    """Return a sentence on what to do if a model's first layer takes fewer inputs than an adapter's, or nothing."""
    if not is_wider(path, size, own):
        return ""
    return (
        f" It is for a model whose {path} takes {size[1]} inputs, such as the picture and what controls it: load it on "
        "a model that was made or widened for it (for Flux, the transformer of diffusers' FluxControlPipeline)."
    )
