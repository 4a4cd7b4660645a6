"""Forward checks: before and after each eager forward of an attached component.

They count forwards by thread, look whether the layers with banks still stand where they stood, and prove that the banks
act.

A module's weight may be used without calling the module, as ``nn.MultiheadAttention`` uses its ``out_proj``: then the
bank's hook never fires, and its adapter would do nothing without a word. So the first forward after banks were put in
is observed: every weight that an operation takes while the bank of its layer does not run is an error.

Inside a graph that is being compiled all of this is left out; the graph is the one of the bare hooks. A component whose
parts are compiled one by one is not observed either: watching its operations would compile every part once more.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode  # pyright: ignore[reportPrivateUsage]

from lorica.errors import ModelError
from lorica.runtime.bank.batch import context
from lorica.runtime.model.layers import BANK, has_hook, remove_hook
from lorica.runtime.model.owner import ATTRIBUTE, NOBODY
from lorica.runtime.model.watch import Watch
from lorica.runtime.pipeline.threads import ThreadGuard

Layers = Mapping[str, nn.Module]
SHOWN = 3  # silent layers that a message names


class ForwardState(Protocol):
    """What a forward needs of the state."""

    @property
    def schedules(self) -> Sequence[Any]:
        """Those that wait for a call."""
        ...

    @property
    def per_sample(self) -> bool:
        """Whether each sample of a batch has adapters of its own."""
        ...


class LiveForwards(Protocol):
    """What a forward needs of the live model."""

    watch: Watch

    @property
    def state(self) -> ForwardState:
        """What is wished on it."""
        ...

    def check_followed(self, component: nn.Module) -> None:
        """Raise if schedules wait for a call, and a component that they are for runs outside of one."""
        ...

    def halves(self, component: nn.Module, args: Any, kwargs: Any) -> int | None:
        """How often the list of samples stands in the batch of a forward of a component, if its input tells."""
        ...


class ThreadForwards(threading.local):
    """The forwards of one thread that are observed, the innermost last, each with a frame that it lives as long as."""

    def __init__(self) -> None:
        self.observed: list[tuple[nn.Module, Observation, FrameType]] = []


_here = ThreadForwards()


class Outside(threading.local):
    """For each forward that a thread is inside, the halves outside of it."""

    def __init__(self) -> None:
        self.halves: list[int | None] = []


class ForwardChecks:
    """Checks around the forwards of the components of one model.

    Args:
        guard: the order among threads.
        model: the model with the adapters.
    """

    def __init__(self, guard: ThreadGuard, model: LiveForwards) -> None:
        self._guard, self._model = guard, model
        self._unproven: set[nn.Module] = set()  # components whose banks have not been seen to run
        self._outside = Outside()

    def begin(self, component: nn.Module) -> None:
        """Register the hooks on a component, if they are not there yet."""
        if not has_hook(component, _before):
            component.register_forward_pre_hook(_before, prepend=True, with_kwargs=True)
        if not has_hook(component, _after):
            component.register_forward_hook(_after, always_call=True)

    def end(self, component: nn.Module) -> None:
        """Take the hooks off a component."""
        remove_hook(component, _before)
        remove_hook(component, _after)

    def prove(self, components: Iterable[nn.Module]) -> None:
        """Observe the next forward of these components: their banks have changed."""
        self._unproven.update(components)

    def before(self, component: nn.Module, args: Any, kwargs: Any, frame: FrameType) -> None:
        """Begin a forward.

        Raises:
            StateError: if the adapters would not act in it.
        """
        if _here.observed:
            _end_interrupted(frame)
        state = self._model.state
        if self._guard.enter(frame):
            if self._outside.halves:  # an interrupt broke off the last forward
                self._outside.halves.clear()
                context.halves = None
            self._model.watch.check()
            if state.schedules:
                self._model.check_followed(component)
        self._outside.halves.append(context.halves)
        if component in self._unproven and not has_compiled_parts(component):
            observation = Observation(_with_banks(component))
            _here.observed.append((component, observation, frame))  # before it begins: an interrupt may come between
            observation.begin()
        context.halves = self._model.halves(component, args, kwargs) if state.per_sample else None

    def after(self, component: nn.Module, *, whole: bool) -> None:
        """End a forward, whether it ran as a whole or broke off.

        Raises:
            ModelError: if a weight was used whose bank did not run.
        """
        self._guard.leave()
        context.halves = self._outside.halves.pop() if self._outside.halves else None
        if _here.observed and _here.observed[-1][0] is component:
            observation = _here.observed[-1][1]
            try:
                observation.close(judge=whole)
            except ModelError:
                _here.observed.pop()
                raise
            _here.observed.pop()  # not where closing it was interrupted: the next forward does it again
            if whole:
                self._unproven.discard(component)


def _end_interrupted(frame: FrameType) -> None:
    """Close observations of forwards that an interrupt broke off: torch runs no hook then."""
    running: set[FrameType] = set()
    outer: FrameType | None = frame
    while outer is not None:
        running.add(outer)
        outer = outer.f_back
    while _here.observed and _here.observed[-1][2] not in running:
        _here.observed[-1][1].close(judge=False)
        _here.observed.pop()


class Observation(TorchFunctionMode):
    """Record of the weights that operations take, and of the layers that are called, until it is closed."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self._layers = layers
        self._paths = {id(cast("Tensor", layer.weight)): path for path, layer in layers.items()}
        self._used: set[str] = set()
        self._outside = context.called
        self._called: set[int] = set() if context.called is None else context.called

    def begin(self) -> None:
        """Begin the observation."""
        context.called = self._called
        self.__enter__()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note the watched weights among the arguments of an operation that gives tensors."""
        del types
        result = func(*args, **(kwargs or {}))
        if isinstance(result, (Tensor, tuple, list)):
            for tensor in _tensors((args, kwargs)):
                if id(tensor) in self._paths:
                    self._used.add(self._paths[id(tensor)])
        return result

    def close(self, *, judge: bool) -> None:
        """End the observation.

        Raises:
            ModelError: if a weight was used while its layer was not called.
        """
        if _get_current_function_mode() is self:  # unless an interrupt came before it began, or after it was closed
            self.__exit__(None, None, None)
        context.called = self._outside
        called = {path for path, layer in self._layers.items() if id(layer) in self._called}
        silent = [path for path in self._paths.values() if path and path in self._used - called]
        if silent and judge:
            raise ModelError(silent_message(silent))


def has_compiled_parts(component: nn.Module) -> bool:
    """Whether parts of a component were compiled by themselves (``block.compile()``, ``torch.compile(block)``)."""
    return any(
        module._compiled_call_impl is not None or hasattr(module, "_orig_mod")  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]
        for module in component.modules()
    )


def _with_banks(component: nn.Module) -> Layers:
    """The layers of a component that hold banks, by path."""
    return {path: layer for path, layer in component.named_modules() if BANK in layer._modules}  # pyright: ignore[reportPrivateUsage]


def silent_message(silent: Sequence[str]) -> str:
    """Which layers an adapter cannot act on from beside the weights, and what to do."""
    more = f" and {len(silent) - SHOWN} more" if len(silent) > SHOWN else ""
    return (
        f"the model uses the weight of {', '.join(silent[:SHOWN])}{more} without calling the module, so an adapter "
        "beside it would do nothing. Put the adapter into the weights with loras.fuse({name: strength}), which acts "
        "here too, or remove it."
    )


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for inner in cast("Sequence[Any]", value):
            yield from _tensors(inner)
    elif isinstance(value, dict):
        yield from _tensors(list(cast("Mapping[str, Any]", value).values()))


def _before(component: nn.Module, args: Any, kwargs: Any) -> None:
    if not torch.compiler.is_compiling() and (model := getattr(component, ATTRIBUTE, NOBODY).model) is not None:
        model.checks.before(component, args, kwargs, sys._getframe(1))  # pyright: ignore[reportPrivateUsage]


def _after(component: nn.Module, args: Any, output: Any) -> None:
    del args
    if not torch.compiler.is_compiling() and (model := getattr(component, ATTRIBUTE, NOBODY).model) is not None:
        model.checks.after(component, whole=output is not None)
