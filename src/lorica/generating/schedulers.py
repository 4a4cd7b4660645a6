"""Schedulers by their common names."""

from __future__ import annotations

from typing import Any

import diffusers

from lorica.errors import ModelError, UnknownNameError

# name -> class in diffusers, and settings beside the model's own configuration
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpm++_karras": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}),
    "dpm++_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
}

# The same by the names of A1111's web UI, which Civitai shows and ComfyUI understands.
SAMPLERS: dict[str, str] = {
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "dpm++": "DPM++ 2M",
    "dpm++_karras": "DPM++ 2M Karras",
    "dpm++_sde": "DPM++ 2M SDE",
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "pndm": "PLMS",
    "unipc": "UniPC",
}

FAST = "dpm++"  # instead of DDPM, which needs hundreds of steps


def use_scheduler(pipeline: Any, name: str | None = None) -> str:
    """Set a pipeline's scheduler by name, with the pipeline's own configuration; return the name of the one it has.

    Without a name the pipeline keeps its own, unless that is DDPM, which takes hundreds of steps: then ``dpm++``.

    Raises:
        UnknownNameError: if there is no such scheduler.
        ModelError: if the scheduler does not work for this model, as those for noise do not for flow matching.
    """
    if name is None and type(pipeline.scheduler).__name__ != "DDPMScheduler":
        return type(pipeline.scheduler).__name__
    chosen = FAST if name is None else name.lower()
    if chosen not in SCHEDULERS:
        raise UnknownNameError.choose("scheduler", chosen, SCHEDULERS)
    if "FlowMatch" in type(pipeline.scheduler).__name__:
        raise ModelError(
            f"the scheduler {chosen!r} removes noise step by step, but {type(pipeline).__name__} is a flow-matching "
            f"model with {type(pipeline.scheduler).__name__}; leave --scheduler out."
        )
    kind, settings = SCHEDULERS[chosen]
    pipeline.scheduler = getattr(diffusers, kind).from_config(pipeline.scheduler.config, **settings)
    return chosen


def sampler_name(scheduler: str) -> str:
    """Name that A1111 has for a scheduler, from the name here or a class of diffusers; that itself if it has none."""
    known = next((name for name, (kind, _) in SCHEDULERS.items() if scheduler in (name, kind)), scheduler)
    return SAMPLERS.get(known, scheduler)
