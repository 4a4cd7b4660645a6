"""The base model that a file is for, from its names and shapes alone; also with a wider first layer.

FLUX.1 Canny and Depth take the picture and the hint together (128 channels in place of 64), inpainting models the mask
and what is behind it (9 in place of 4). The weights of the base are padded with zeros there; all else is the family's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from lorica.adapters import ANY, Adapter, AdapterLayer
from lorica.formats.names import BARE_MODULE
from lorica.models import FAMILIES, Family, Target
from lorica.models.detect import Candidate, detect
from lorica.models.folding import Shape
from lorica.models.index import reaches_of

FIRST_LAYERS = ("conv_in", "x_embedder", "patch_embedding", "pos_embed.proj")
_CROSS_KEYS = ("attn2.to_k", "attn2_to_k")
_CROSS_NAME = "down_blocks_*_attentions_*_transformer_blocks_*_attn2_to_k"  # as the index writes it
_UNET = re.compile(r"(^|[._])(down_blocks|mid_block|up_blocks|input_blocks|middle_block|output_blocks)[._]")
_DOWN = ("lora_A.weight", "down.weight")
_HALVES = (("lora_A.", "lora_B."), ("lora_down.", "lora_up."), ("lora.down.", "lora.up."))
_START = re.compile(
    r"((base_model\.model|diffusion_model|unet|transformer(_2)?|prior|text_encoder(_\d)?)\.|lycoris_"
    r"|lora_(unet_?|transformer|prior_unet|te\d?)_)+"
)


def sentence(tensors: Mapping[str, Tensor], target: Target | None) -> str:
    """A sentence on what the file looks like and what the model has in its place, or nothing if that is nothing new."""
    width, wanted = _width_of_file(tensors), None if target is None else cross_attention_width(target)
    if width is None:
        candidates = detect({BARE_MODULE: modules_in(tensors)})
        best = [each.title for each in candidates if each.fitting == candidates[0].fitting > 0]
        return f"This file looks like {_either(best)}." if best else ""
    if width == wanted:
        return ""
    has = f", the model has {wanted}" if wanted is not None else ""
    return f"This file looks like {_title_of_width(width)}: cross-attention width {width}{has}."


def modules_in(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """The modules that have both thin factors, whatever the format: bare name to outputs and inputs."""
    modules: dict[str, tuple[int, int]] = {}
    for key, down in tensors.items():
        half = next((half for half in _HALVES if half[0] in key), None)
        up = tensors.get(key.replace(*half)) if half else None
        if half and up is not None and min(up.ndim, down.ndim) > 1:
            name = key.partition(half[0])[0].rstrip("._")
            modules[name[found.end() :] if (found := _START.match(name)) else name] = (up.shape[0], down.shape[1])
    return modules


def candidates_for(adapter: Adapter) -> list[Candidate]:
    """The families that an adapter may be for, the best fitting first, by the index of all of them.

    If it fits none, the inputs of a first layer do not count: a model for inpainting or control has more of them.
    """
    sizes = {
        component: {path: layer.weight_shape for path, layer in layers.items()}
        for component, layers in adapter.components.items()
    }
    found = detect(sizes)
    if not found or found[0].fits:
        return found
    return detect(
        {
            component: {path: (shape[0], ANY) if path in FIRST_LAYERS else shape for path, shape in shapes.items()}
            for component, shapes in sizes.items()
        }
    )


def families_of(adapter: Adapter, candidates: Sequence[Candidate] = (), fitted: Target | None = None) -> list[Family]:
    """The families all of whose named modules and shapes the adapter fits.

    Args:
        adapter: what was read.
        candidates: the families that it may be for, if they are known already.
        fitted: the model that each of its layers was held against when it was read, if one was.
    """
    found = [candidate for candidate in candidates if candidate.fits] or candidates_for(adapter)
    alike = (FAMILIES[candidate.family] for candidate in found if candidate.fits)
    return [family for family in alike if (family.target is fitted and len(adapter)) or fits(adapter, family.target)]


def likeliest_families(adapter: Adapter) -> list[Family]:
    """The families that an adapter fits as a whole, without those whose last blocks it reaches less than others.

    An adapter of all blocks of Flux also fits HunyuanVideo, which has more of the same.
    """
    fitting = [candidate for candidate in candidates_for(adapter) if candidate.fits]
    most = max((candidate.reached for candidate in fitting), default=0)
    families = families_of(adapter, [candidate for candidate in fitting if candidate.reached == most])
    return families or families_of(adapter, fitting)


def fits(adapter: Adapter, target: Target) -> bool:
    """Whether each layer of an adapter has a module of its shape in the target, if only with fewer inputs."""
    return bool(len(adapter)) and all(
        _fits(path, layer, target.components.get(component, {}).get(path, ()))
        for component, path, layer in adapter.layers()
    )


def _fits(path: str, layer: AdapterLayer, shape: tuple[int, ...]) -> bool:
    return layer.fits(shape) or (len(shape) > 1 and is_wider(path, layer.weight_shape, shape))


def widened(model: Target, sizes: Iterable[tuple[str, str, Shape | None]]) -> Target:
    """A model with as many inputs in its first layer as an adapter has there, if those are more.

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
    """Whether a weight is that of a model's first layer with more inputs."""
    return path in FIRST_LAYERS and size[:1] == own[:1] and size[1:2] > own[1:2]


def too_narrow(path: str, size: Shape, own: Shape) -> str:
    """Advice for a model whose first layer takes fewer inputs than an adapter's, or nothing."""
    if not is_wider(path, size, own):
        return ""
    return (
        f" It is for a model whose {path} takes {size[1]} inputs, such as the picture and what controls it: load it on "
        "a model that was made or widened for it (for Flux, the transformer of diffusers' FluxControlPipeline)."
    )


def cross_attention_width(target: Target) -> int | None:
    """The width of the text states that a model's denoiser attends to, or None if it has no such attention."""
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
        if any(name in key for name in _CROSS_KEYS) and _UNET.search(key) and key.endswith(_DOWN) and tensor.ndim > 1
    )
    return next(widths, None)


def _title_of_width(width: int) -> str:
    families = reaches_of(_CROSS_NAME).items()
    titles = [FAMILIES[family].title for family, sizes in families if any(size[1] == width for size in sizes)]
    return _either(titles) if titles else "no base model known here"


def _either(titles: Iterable[str]) -> str:
    return " or ".join(titles)
