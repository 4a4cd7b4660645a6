"""The optimizer of a run, a named one or any other by its class path, over one flat parameter per component."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, cast

import torch
from diffusers.optimization import get_scheduler
from torch import Tensor, nn

from lorica.errors import ConfigError, MissingExtraError, TrainingError, UnknownNameError
from lorica.runtime.trainable.norms import apply_rates, element_rates
from lorica.training.config.optimizer import OptimizerSettings

FUSED = ("cpu", "cuda", "mps", "xpu")  # devices on which torch has Adam as one kernel
GROUP = "group/"  # prefix of the state of a parameter group in a checkpoint
OWNED = {"lr": "learning_rate", "params": "target_modules"}  # arguments of optimizers that the run itself gives
NUMBERS: dict[str, type] = {"#bool": bool, "#int": int, "#float": float}
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
    """AdamW that finds its learning rate (Mishchenko and Defazio 2023, arXiv:2306.06101), with diffusers' defaults."""
    defaults = {"decouple": True, "use_bias_correction": True, "safeguard_warmup": True}
    return _extra("prodigyopt", "optimizers").Prodigy(groups, **{**defaults, **options})


def adafactor(groups: Groups, options: dict[str, Any]) -> torch.optim.Optimizer:
    """Adafactor (Shazeer and Stern 2018, arXiv:1804.04235) with the run's learning rates."""
    from transformers.optimization import Adafactor

    own = {name: value for name, value in options.items() if name not in ("betas", "eps")}
    return Adafactor(groups, **{"scale_parameter": False, "relative_step": False, "warmup_init": False, **own})


OPTIMIZERS: dict[str, Build] = {build.__name__: build for build in (adamw, adamw8bit, prodigy, adafactor)}
BY_ELEMENT = ("adamw", "adamw8bit", "prodigy")  # may step one flat parameter; the others need each factor as a matrix


class Optimizer:
    """Any optimizer, with one learning rate a component and one schedule for all.

    Args:
        parameters: flat parameters by component; their gradients stay where they are.
        rates: the learning rate of each component.
        settings: the optimizer and the schedule.
        steps: number of steps of the whole run.
        pieces: the factors by name, views of ``parameters``, for optimizers that depend on shapes.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        rates: Mapping[str, float],
        settings: OptimizerSettings,
        steps: int,
        pieces: Mapping[str, nn.Parameter] | None = None,
    ) -> None:
        self._rates = dict(rates)
        self._share = schedule(settings, steps)
        self._parameters = dict(parameters)
        self._element_rates: dict[str, Tensor] = {}
        flat = pieces is None or settings.optimizer.lower() in BY_ELEMENT
        self._stepped: dict[str, nn.Parameter] = dict(parameters if flat else pieces or {})
        self.inner = make_optimizer(
            settings, [{"params": self._members(name), "lr": rates[name]} for name in parameters]
        )
        self._first = _group_settings(self.inner)

    def set_element_rates(self, pieces: Mapping[str, Tensor], rate: Callable[[str], float]) -> None:
        """Give single factors a share of the learning rate of their own, by name."""
        self._element_rates = {name: element_rates(flat, pieces, rate) for name, flat in self._parameters.items()}

    @contextmanager
    def element_rates(self) -> Iterator[None]:
        """Scale the step that is taken within the ``with`` block by the rates of single factors."""
        before = {name: self._parameters[name].detach().clone() for name in self._element_rates}
        yield
        for name, rates in self._element_rates.items():
            apply_rates(self._parameters[name].data, before[name], rates)

    def rate(self) -> float:
        """Learning rate of the first component; with Prodigy, the rate that it found times it."""
        group = self.inner.param_groups[0]
        found = group.get("d", 1.0)
        return float(group["lr"]) * (float(found) if isinstance(found, int | float) else 1.0)

    def set_rates(self, step: int) -> None:
        """Set the learning rates of one step, counted from 0."""
        share = self._share(step)
        for group, rate in zip(self.inner.param_groups, self._rates.values(), strict=True):
            group["lr"] = rate * share

    def clip(self, longest: float) -> Tensor:
        """Clip the gradient, all components as one vector, to a norm; return the norm it had, a scalar."""
        return nn.utils.clip_grad_norm_(list(self._parameters.values()), longest)

    def clear(self) -> None:
        """Zero the gradients in place."""
        for parameter in self._parameters.values():
            cast("Tensor", parameter.grad).zero_()

    def state(self) -> dict[str, Tensor]:
        """State of every parameter by name, such as ``unet/exp_avg``, and of the groups; empty before the first step.

        Raises:
            TrainingError: if the optimizer holds something that is neither a tensor nor a number.
        """
        packed: dict[str, Tensor] = {}
        for name, parameter in self._stepped.items():
            for key, value in self.inner.state.get(parameter, {}).items():
                _pack(packed, f"{name}/{key}", value)
        for number, (group, before) in enumerate(zip(_group_settings(self.inner), self._first, strict=True)):
            for key, value in group.items():  # Prodigy and others keep numbers of their own in their groups
                if key != "lr" and isinstance(value, int | float) and value != before.get(key):
                    _pack(packed, f"{GROUP}{number}/{key}", value)
        return packed

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned."""
        fused = any(bool(group.get("fused")) for group in self.inner.param_groups)
        for name, tensor in state.items():
            owner, key = name.rsplit("/", 1)
            key, mark, kind = key.partition("#")
            value: Any = NUMBERS[mark + kind](tensor.item()) if mark else tensor.clone()
            if owner.startswith(GROUP):
                self.inner.param_groups[int(owner.removeprefix(GROUP))][key] = value
                continue
            parameter = self._stepped[owner]
            if isinstance(value, Tensor) and (value.ndim or fused):  # counters are on the CPU, but for fused kernels
                value = value.to(parameter.device)
            self.inner.state[parameter][key] = value

    def _members(self, component: str) -> list[nn.Parameter]:
        return [parameter for name, parameter in self._stepped.items() if name.split("/", 1)[0] == component]


def make_optimizer(settings: OptimizerSettings, groups: Groups) -> torch.optim.Optimizer:
    """The optimizer of a run, over parameter groups with their learning rates.

    Raises:
        MissingExtraError: if its package is not installed.
        UnknownNameError: if there is none by that name.
        ConfigError: if it does not take ``optimizer_args``.
    """
    name, own = settings.optimizer, _options(settings.optimizer_args)
    adams = {
        "betas": (settings.adam_beta1, settings.adam_beta2),
        "weight_decay": settings.adam_weight_decay,
        "eps": settings.adam_epsilon,
    }
    try:
        if name.lower() in OPTIMIZERS:
            return OPTIMIZERS[name.lower()](groups, {**adams, **own})
        return _class(name)(groups, **own)
    except TypeError as error:
        raise ConfigError(f"the optimizer {name} does not take these optimizer_args: {error}.") from error


def schedule(settings: OptimizerSettings, steps: int) -> Callable[[int], float]:
    """Share of the learning rate at each step, by diffusers' schedules.

    Raises:
        ConfigError: if a polynomial would have to fall below its end.
    """
    placeholder = torch.optim.SGD([torch.zeros(1)], lr=settings.learning_rate)  # a scheduler needs an optimizer
    try:
        scheduler = get_scheduler(
            settings.lr_scheduler,
            placeholder,
            num_warmup_steps=warmup_steps(settings, steps),
            num_training_steps=steps,
            num_cycles=settings.lr_num_cycles,
            power=settings.lr_power,
        )
    except ValueError as error:
        raise ConfigError(f"lr_scheduler {settings.lr_scheduler} cannot be used: {error}.") from error
    return scheduler.lr_lambdas[0]


def warmup_steps(settings: OptimizerSettings, steps: int) -> int:
    """Steps of rising rate in a run of some steps.

    Raises:
        ConfigError: if the run ends before the rate is reached.
    """
    wanted = settings.lr_warmup_steps
    if wanted < 1:
        return round(wanted * steps)
    if wanted >= steps:
        raise ConfigError(
            f"lr_warmup_steps is {wanted:.0f} and the run has {steps} steps, so learning_rate is never reached: "
            "give fewer, or a share of the run such as 0.1."
        )
    return int(wanted)


def _group_settings(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def _pack(packed: dict[str, Tensor], name: str, value: object) -> None:
    if isinstance(value, Tensor):
        packed[name] = value.detach().clone().contiguous()
    elif isinstance(value, bool | int | float):
        wide = torch.float64 if isinstance(value, float) else torch.int64
        packed[f"{name}#{type(value).__name__}"] = torch.tensor(value, dtype=wide)
    elif value is not None:
        raise TrainingError(
            f"the optimizer holds {name}, a {type(value).__name__}, which a checkpoint cannot hold; choose another."
        )


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
        found[name.strip()] = parsed = _value(value.strip())
        if isinstance(parsed, float) and not math.isfinite(parsed):
            raise ConfigError(f"optimizer_args takes finite numbers, got {pair!r}.")
        if name.strip() in OWNED:
            raise ConfigError(
                f"optimizer_args holds {pair!r}, which would change nothing: write {OWNED[name.strip()]}."
            )
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except ValueError:
        return text
