"""What of a live model can carry an adapter: its components, its modules, and patterns that choose among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, cast

from torch import nn

from lorica.adapters.operation import CONVOLUTIONS
from lorica.errors import ModelError, UnknownNameError
from lorica.models.target import Target
from lorica.runtime.model.layers import index_layers
from lorica.runtime.model.supported_layers import SUPPORTED

# Components of a pipeline that adapters are never made for.
LEFT_OUT = ("vae", "vqgan", "movq", "safety_checker", "image_encoder", "feature_extractor")

_ATTENTION = ("*.to_q", "*.to_k", "*.to_v", "*.to_out.0", "*.q_proj", "*.k_proj", "*.v_proj", "*.out_proj")
_JOINT_ATTENTION = ("*.add_q_proj", "*.add_k_proj", "*.add_v_proj", "*.to_add_out")
_FEED_FORWARD = (
    "*.ff.net.0.proj",
    "*.ff.net.2",
    "*.ff_context.net.0.proj",
    "*.ff_context.net.2",
    "*.mlp.fc1",
    "*.mlp.fc2",
)
PRESETS: dict[str, tuple[str, ...]] = {
    "attention": (*_ATTENTION, *_JOINT_ATTENTION),
    "attention+ff": (*_ATTENTION, *_JOINT_ATTENTION, *_FEED_FORWARD),
}
PRESETS_BY_TYPE: dict[str, tuple[type[nn.Module], ...]] = {
    "all-linear": (nn.Linear,),
    "all": (nn.Linear, *CONVOLUTIONS),
}


def components_of(model: Any) -> dict[str, nn.Module]:
    """The parts of a pipeline that adapters can act on, by name; a single module is one part.

    A module that stands under two names (a text encoder that a prior and a decoder share) is one part, by the first.

    Raises:
        ModelError: if it is neither a pipeline nor a module.
    """
    if isinstance(model, nn.Module):
        module = _unwrapped(model)
        return {_component_name(module): module}
    parts = getattr(model, "components", None)
    if not isinstance(parts, Mapping):
        raise ModelError(f"expected a diffusers pipeline or a torch module, got {type(model).__name__}.")
    modules = cast("Mapping[str, Any]", parts)
    found = {name: _unwrapped(part) for name, part in modules.items() if isinstance(part, nn.Module)}
    first = {id(part): name for name, part in reversed(found.items())}
    return {
        name: part
        for name, part in found.items()
        if name.removeprefix("prior_") not in LEFT_OUT and first[id(part)] == name
    }


def modules_of(component: nn.Module) -> dict[str, nn.Module]:
    """Layers of a component that low-rank adapters can act on, by path."""
    return {path: module for path, module in component.named_modules() if isinstance(module, SUPPORTED)}


def target_of(model: Any) -> Target:
    """Module paths and weight shapes of a live model, which is all that files are read against."""
    return target_of_components(components_of(model), type(model).__name__)


def target_of_components(parts: Mapping[str, nn.Module], name: str = "this model") -> Target:
    """Module paths and weight shapes of a live model's components."""
    return Target(name, {part: index.shapes for part, index in index_layers(parts).items()})


def choose_modules(component: nn.Module, patterns: str | Sequence[str]) -> list[str]:
    """Paths of the layers that a preset or globs on module paths name, in the model's order.

    Args:
        component: the module to look in.
        patterns: ``attention``, ``attention+ff``, ``all-linear``, ``all``, or globs such as ``*.attn2.to_k``.

    Raises:
        UnknownNameError: if a pattern matches no layer.
    """
    layers = modules_of(component)
    wanted = [patterns] if isinstance(patterns, str) else list(patterns)
    chosen: set[str] = set()
    for pattern in wanted:
        found = matching(layers, pattern)
        if not found:
            raise UnknownNameError.among_many("module pattern", pattern, [*PRESETS, *PRESETS_BY_TYPE, *layers])
        chosen.update(found)
    return [path for path in layers if path in chosen]


def matching(layers: Mapping[str, nn.Module], pattern: str) -> list[str]:
    """Paths of those of some layers that a preset or glob names."""
    if pattern in PRESETS_BY_TYPE:
        return [path for path, layer in layers.items() if isinstance(layer, PRESETS_BY_TYPE[pattern])]
    globs: Iterable[str] = PRESETS.get(pattern, (pattern,))
    return [path for path in layers if any(fnmatchcase(f".{path}", glob) or fnmatchcase(path, glob) for glob in globs)]


def _unwrapped(module: nn.Module) -> nn.Module:
    """The module itself where ``torch.compile`` wrapped it."""
    return cast("nn.Module", getattr(module, "_orig_mod", module))


def _component_name(module: nn.Module) -> str:
    """The name that pipelines give to a module of this class."""
    name = type(module).__name__
    if name.startswith("UNet"):
        return "unet"
    if "Prior" in name:
        return "prior"
    if "Transformer" in name and not name.startswith(("CLIP", "T5")):
        return "transformer"
    if name.startswith(("CLIPText", "T5", "UMT5", "Gemma", "Llama", "Qwen")):
        return "text_encoder"
    return "model"
