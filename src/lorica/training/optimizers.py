"""The optimizers that a run can name, and any other by its class path."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import torch

from lorica.errors import ConfigError, MissingExtraError, UnknownNameError
from lorica.training.config.config import RunConfig

FUSED = ("cpu", "cuda", "mps", "xpu")  # devices on which torch has Adam as one kernel
Groups = list[dict[str, Any]]
Build = Callable[[Groups, dict[str, Any]], torch.optim.Optimizer]


def adamw(groups: Groups, options: dict[str, Any]) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), one kernel where the device has it."""
    fused = all(parameter.device.type in FUSED for group in groups for parameter in group["params"])
    settings: dict[str, Any] = {"fused": fused, **options}
    return torch.optim.AdamW(groups, **settings)


def adamw8bit(groups: Groups, options: dict[str, Any]) -> torch.optim.Optimizer:
    """AdamW with moments in 8 bits (Dettmers et al. 2022, arXiv:2110.02861)."""
    return _extra("bitsandbytes", "bnb").optim.AdamW8bit(groups, **options)


def prodigy(groups: Groups, options: dict[str, Any]) -> torch.optim.Optimizer:
    """AdamW that finds its learning rate (Mishchenko and Defazio 2023, arXiv:2306.06101), as diffusers sets it."""
    defaults = {"decouple": True, "use_bias_correction": True, "safeguard_warmup": True}
    return _extra("prodigyopt", "optimizers").Prodigy(groups, **{**defaults, **options})


def adafactor(groups: Groups, options: dict[str, Any]) -> torch.optim.Optimizer:
    """Adafactor (Shazeer and Stern 2018, arXiv:1804.04235) with the run's learning rates."""
    from transformers.optimization import Adafactor

    own = {name: value for name, value in options.items() if name not in ("betas", "eps")}
    return Adafactor(groups, **{"scale_parameter": False, "relative_step": False, "warmup_init": False, **own})


OPTIMIZERS: dict[str, Build] = {build.__name__: build for build in (adamw, adamw8bit, prodigy, adafactor)}
BY_ELEMENT = ("adamw", "adamw8bit", "prodigy")  # may step one flat parameter; the others see each factor as a matrix


def steps_elements(name: str) -> bool:
    """Tell whether an optimizer gives the same for one flat parameter as for its pieces."""
    return name.lower() in BY_ELEMENT


def make_optimizer(config: RunConfig, groups: Groups) -> torch.optim.Optimizer:
    """Return the optimizer of a run over parameter groups with their learning rates.

    Raises:
        MissingExtraError: if it is in a package that is not installed.
        UnknownNameError: if there is none by that name.
        ConfigError: if it does not take ``optimizer_args``.
    """
    name, own = config.optimizer, _options(config.optimizer_args)
    adams = {
        "betas": (config.adam_beta1, config.adam_beta2),
        "weight_decay": config.adam_weight_decay,
        "eps": config.adam_epsilon,
    }
    try:
        if name.lower() in OPTIMIZERS:
            return OPTIMIZERS[name.lower()](groups, {**adams, **own})
        return _class(name)(groups, **own)
    except TypeError as error:
        raise ConfigError(f"the optimizer {name} does not take these optimizer_args: {error}.") from error


def _class(path: str) -> Callable[..., torch.optim.Optimizer]:
    module, _, name = path.rpartition(".")
    if not module:
        raise UnknownNameError.choose("optimizer (or the path of a class)", path, OPTIMIZERS)
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        raise MissingExtraError(f"optimizer={path!r} needs {module}, which cannot be imported: {error}.") from error
    except AttributeError as error:
        raise UnknownNameError(f"there is no optimizer {name} in {module}.") from error


def _extra(package: str, extra: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtraError(
            f"this optimizer needs {package}, which is not installed: pip install 'lorica[{extra}]'."
        ) from error


def _options(pairs: Iterable[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"optimizer_args takes NAME=VALUE, such as momentum=0.9, got {pair!r}.")
        found[name.strip()] = _value(value.strip())
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except ValueError:
        return text
