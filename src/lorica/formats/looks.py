"""What base model a file looks like, from its names and shapes alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from lorica.adapters import Adapter
from lorica.models import FAMILIES, Family, Target
from lorica.models.detect import Candidate, detect

# What only the names of one kind of model contain.
MARKS: dict[str, str] = {
    "single_transformer_blocks": "Flux",
    "double_blocks": "Flux",
    "joint_blocks": "Stable Diffusion 3",
    "joint_transformer_blocks": "AuraFlow",
}
_CROSS_KEYS = ("attn2.to_k", "attn2_to_k")
_DOWN = ("lora_A.weight", "down.weight")


def sentence(tensors: Mapping[str, Tensor], target: Target | None) -> str:
    """Return what the file looks like and what the model has in its place, or nothing if that says nothing new."""
    for mark, title in MARKS.items():
        if any(mark in key for key in tensors):
            return f"This file looks like {title}."
    width, wanted = _width_of_file(tensors), None if target is None else cross_attention_width(target)
    if width is None or width == wanted:
        return ""
    has = f", the model has {wanted}" if wanted is not None else ""
    return f"This file looks like {_title_of_width(width)}: cross-attention width {width}{has}."


def candidates_for(adapter: Adapter) -> list[Candidate]:
    """Return the families that an adapter may be for, the best fitting first, by the index of all of them."""
    return detect(
        {
            component: {path: layer.weight_shape for path, layer in layers.items()}
            for component, layers in adapter.components.items()
        }
    )


def families_of(adapter: Adapter, candidates: Sequence[Candidate] = ()) -> list[Family]:
    """Return the families all of whose named modules and shapes the adapter fits.

    Args:
        adapter: what was read.
        candidates: the families that it may be for, if they are known already.
    """
    found = [candidate for candidate in candidates if candidate.fits] or candidates_for(adapter)
    alike = (FAMILIES[candidate.family] for candidate in found if candidate.fits)
    return [family for family in alike if fits(adapter, family.target)]


def family_of(adapter: Adapter, candidates: Sequence[Candidate] = ()) -> Family | None:
    """Return the only family that the adapter fits as a whole, or None if none or several do."""
    fitting = families_of(adapter, candidates)
    return fitting[0] if len(fitting) == 1 else None


def fits(adapter: Adapter, target: Target) -> bool:
    """Tell whether each layer of an adapter has a module of its shape in the target."""
    parts = target.components
    return bool(len(adapter)) and all(
        layer.fits(parts.get(component, {}).get(path, ())) for component, path, layer in adapter.layers()
    )


def cross_attention_width(target: Target) -> int | None:
    """Return the width of the text states that a model's denoiser attends to, or None if it has no such attention."""
    widths = (
        shape[1]
        for component, path, shape in target.modules()
        if component in ("unet", "model") and path.endswith(_CROSS_KEYS[0])
    )
    return next(widths, None)


def _width_of_file(tensors: Mapping[str, Tensor]) -> int | None:
    widths = (
        tensor.shape[1]
        for key, tensor in tensors.items()
        if any(name in key for name in _CROSS_KEYS) and key.endswith(_DOWN) and tensor.ndim > 1
    )
    return next(widths, None)


def _title_of_width(width: int) -> str:
    titles = [family.title for family in FAMILIES.values() if cross_attention_width(family.target) == width]
    return _either(titles) if titles else "no base model known here"


def _either(titles: Iterable[str]) -> str:
    return " or ".join(titles)
