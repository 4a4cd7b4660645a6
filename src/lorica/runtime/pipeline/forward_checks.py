"""What surrounds each eager forward of a component that carries adapters: whose turn it is, and whether banks act.

A module's weight may be used without calling the module, as ``nn.MultiheadAttention`` uses its ``out_proj``: then the
bank's hook never fires, and its adapter would do nothing without a word. So the first forward after banks were put in
is observed: every weight that an operation takes while the bank of its layer does not run is an error.

Inside a graph that is being compiled all of this is left out; the graph is the one of the bare hooks. A component whose
parts are compiled one by one is not observed either: watching its operations would compile every part once more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from lorica.errors import ModelError
from lorica.runtime.bank.bank import CHILD
from lorica.runtime.model.owner import owner_of
from lorica.runtime.pipeline.batch import here
from lorica.runtime.pipeline.threads import Turns

Layers = Mapping[str, nn.Module]
Halves = Callable[[nn.Module, Any, Any], "int | None"]  # of a component, its arguments and its named arguments
SHOWN = 3  # silent layers that a message names


class Observing(threading.local):
    """The forwards of one thread that are observed, the innermost last, and the halves outside of all of them."""

    def __init__(self) -> None:
        self.outside: list[int | None] = []
        self.running: list[tuple[nn.Module, Observation]] = []


class Watch:
    """Stands around the forwards of the components of one model.

    Args:
        turns: the order among threads.
        check: raises if the adapters would not act in a forward of a component that no call of a pipeline surrounds.
        halves: returns how often the list of samples stands in the batch of a forward of a component.
    """

    def __init__(self, turns: Turns, check: Callable[[nn.Module], None], halves: Halves) -> None:
        self._turns, self._check, self._halves = turns, check, halves
        self._handles: list[RemovableHandle] = []
        self._components: list[nn.Module] = []
        self._held: object = None
        self._unproven: list[nn.Module] = []  # components whose banks have not been seen to run
        self._here = Observing()

    def begin(self, components: Sequence[nn.Module], held: object) -> None:
        """Stand around these components' forwards; if the banks hold something else by now, observe the next ones."""
        for part in components:
            if not any(part is known for known in self._components):
                self._components.append(part)
                self._handles.append(part.register_forward_pre_hook(_before, prepend=True, with_kwargs=True))
                self._handles.append(part.register_forward_hook(_after, always_call=True))
        if held is not self._held:
            self._held, self._unproven = held, list(components)

    def end(self) -> None:
        """Take everything off."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._components, self._unproven, self._held = [], [], [], None

    def before(self, component: nn.Module, args: Any, kwargs: Any) -> None:
        """Begin a forward."""
        self._here.outside.append(here.halves)
        if self._turns.enter():
            self._check(component)
        if any(part is component for part in self._unproven) and not has_compiled_parts(component):
            self._here.running.append((component, Observation(_served(component))))
        here.halves = self._halves(component, args, kwargs)

    def after(self, component: nn.Module, *, whole: bool) -> None:
        """End a forward, whether it ran as a whole or broke off.

        Raises:
            ModelError: if a weight was used whose bank did not run.
        """
        self._turns.leave()
        here.halves = self._here.outside.pop() if self._here.outside else None
        if self._here.running and self._here.running[-1][0] is component:
            self._here.running.pop()[1].close(judge=whole)
            if not whole:
                return
            self._unproven = [part for part in self._unproven if part is not component]


class Observation(TorchFunctionMode):
    """Sees which weights operations take, and which layers are called, until it is closed."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self._paths = {id(cast("Tensor", layer.weight)): path for path, layer in layers.items()}
        self._used: set[str] = set()
        self._called = {""}  # the component itself is, or there would be no observation
        self._stack = ExitStack()
        for path, layer in layers.items():
            handle = layer.register_forward_pre_hook(partial(self._note, path))
            self._stack.callback(handle.remove)
        self._stack.enter_context(self)

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

    def _note(self, path: str, layer: nn.Module, args: Any) -> None:
        del layer, args
        self._called.add(path)

    def close(self, *, judge: bool) -> None:
        """End the observation.

        Raises:
            ModelError: if a weight was used while its layer was not called.
        """
        self._stack.close()
        silent = [path for path in self._paths.values() if path in self._used - self._called]
        if silent and judge:
            raise ModelError(silent_message(silent))


def has_compiled_parts(component: nn.Module) -> bool:
    """Tell whether parts of a component were compiled by themselves (``block.compile()``, ``torch.compile(block)``)."""
    return any(
        module._compiled_call_impl is not None or hasattr(module, "_orig_mod")  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]
        for module in component.modules()
    )


def _served(component: nn.Module) -> Layers:
    """Return the layers of a component that hold banks, by path."""
    return {path: layer for path, layer in component.named_modules() if CHILD in layer._modules}  # pyright: ignore[reportPrivateUsage]


def silent_message(silent: Sequence[str]) -> str:
    """Say which layers an adapter cannot act on from beside the weights."""
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
    if not torch.compiler.is_compiling():
        watch = _watch_of(component)
        if watch is not None:
            watch.before(component, args, kwargs)


def _after(component: nn.Module, args: Any, output: Any) -> None:
    del args
    if not torch.compiler.is_compiling():
        watch = _watch_of(component)
        if watch is not None:
            watch.after(component, whole=output is not None)


def _watch_of(component: nn.Module) -> Watch | None:
    """Return who watches a component; a copy of it is watched by nobody."""
    owner = owner_of(component)
    return None if owner is None or owner.loras is None else owner.loras.watch
