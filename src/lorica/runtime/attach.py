"""Put the engine on a pipeline or module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from lorica.errors import StateError
from lorica.runtime.apply import LiveModel
from lorica.runtime.loras import Loras
from lorica.runtime.model.owner import is_copy, owner_of
from lorica.runtime.model.targets import components_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def attach(model: DiffusionPipeline | nn.Module) -> Loras:
    """The adapters of a diffusers pipeline or of one module; calling it again returns the same object.

    Forward hooks on the components, and the interception of the pipeline's call, are all that is added to the model
    until the first adapter is loaded.

    Example::

        pipe = StableDiffusionPipeline.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5")
        loras = lorica.attach(pipe)
        loras.load("style.safetensors", name="style", strength=0.8)
        pipe("a cat").images[0].save("cat.png")
        loras.set({"style": 0.3})  # exactly these are live, at these strengths; set({}) is the base
        loras.detach()  # the pipeline is again what it was, bit for bit

    Args:
        model: the pipeline, all of whose networks that adapters act on are attached; or one of them, or any module.

    Raises:
        ModelError: if it is neither a pipeline nor a module, or has no component that adapters act on.
        StateError: if one of its components belongs to another attached pipeline, or is a copy of one that does.
    """
    components = components_of(model)
    owners = {name: cast("LiveModel", owner) for name, part in components.items() if (owner := owner_of(part))}
    live = next((owner for owner in owners.values() if _is_for(owner, model, components)), None)
    if live is None:
        _check_free(components, owners)
        live = LiveModel(components)
        live.loras = Loras(live)
        live.claim(components)
    live.calls.follow(model)
    components = live.calls.found_components(replace=not live.is_in_use)
    live.change(lambda state: state.attached_to(components))
    return cast("Loras", live.loras)


def _is_for(live: LiveModel, model: Any, components: Mapping[str, nn.Module]) -> bool:
    """Whether a live model is this one: it has the same components, or has since got more or lost some."""
    if live.components == components:
        return True
    followed = any(model is pipeline for pipeline in live.calls.pipelines)
    return followed and all(components.get(name, part) is part for name, part in live.components.items())


def _check_free(components: Mapping[str, nn.Module], owners: Mapping[str, LiveModel]) -> None:
    """Raise unless the components are free for another engine: one that holds nothing lets them go."""
    copied = next((name for name, part in components.items() if is_copy(part)), None)
    if copied is not None:
        raise StateError(
            f"the component {copied!r} is a copy of one that had adapters attached. The copy runs as it was when "
            "copied; to change its adapters, call .detach() on the original before copying."
        )
    for name, owner in owners.items():
        if owner.is_in_use:
            raise StateError(
                f"the component {name!r} already belongs to another attached pipeline or module, whose components are "
                f"not just {', '.join(components)}. Use that one's adapters, or call its .detach() first."
            )
