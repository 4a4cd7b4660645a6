"""Modules that are imported when they are first used: for verbs that mostly do without a slow one, such as torch.

``import torch`` finds whatever stands under that name. What is put there knows nothing, and imports the real module
when something is asked of it. So a file may import torch at its top and still be loaded in a millisecond, as long as it
asks for nothing but classes and functions to use later. A file that asks for more is treated right as well, but not
fast.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_IMPORT_SYSTEM = "<frozen importlib._bootstrap>"  # asks for a package's path when it imports a module of it


class Deferred:
    """A class or function of a postponed module: to be called, derived from, or used with ``isinstance``."""

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the real one."""
        return self._real()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Ask the real one."""
        return getattr(self._real(), name)

    def __instancecheck__(self, instance: object) -> bool:
        """Tell whether something is an instance of the real one."""
        return isinstance(instance, self._real())

    def __subclasscheck__(self, subclass: type) -> bool:
        """Tell whether a class is derived from the real one."""
        return issubclass(subclass, self._real())

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        """Let a class be derived from the real one."""
        del bases
        return (self._real(),)

    def __or__(self, other: Any) -> Any:
        """Return the type of what is one or the other."""
        return self._real() | other

    def __eq__(self, other: object) -> bool:
        """Be equal to the real one."""
        return self is other or self._real() == other

    def __hash__(self) -> int:
        """Be found where the real one is."""
        return hash(self._real())

    def _real(self) -> Any:
        return getattr(_real(self._module), self._name)


class Postponed(ModuleType):
    """A module that stands for another until something is asked of it.

    Args:
        name: the module.
        deferred: the classes and functions in it that can be named before it is imported; None for everything in it.
    """

    def __init__(self, name: str, deferred: frozenset[str] | None) -> None:
        super().__init__(name)
        self.__file__ = None
        self._deferred = deferred

    def __getattr__(self, name: str) -> Any:
        """Return something that stands for a class or function; for all else import the real module and ask it."""
        own = self.__name__
        asker = sys._getframe(1).f_code.co_filename  # type: ignore[reportPrivateUsage]
        if name == "__path__" and asker != _IMPORT_SYSTEM:
            raise AttributeError(name)  # ``from torch import nn`` looks whether it may have to import torch.nn
        if is_postponed(own) and not name.startswith("_") and (self._deferred is None or name in self._deferred):
            return Deferred(own, name)
        return getattr(_real(own), name)


def postpone(package: str, *, names: tuple[str, ...] = (), modules: tuple[str, ...] = ()) -> None:
    """Let a package be imported when it is first used. If it is imported already, it stays as it is.

    Args:
        package: such as ``torch``.
        names: its classes that files name at their top, such as ``Tensor``.
        modules: its modules of which files name classes and functions, such as ``nn``; a module after the one it is in.
    """
    spec = find_spec(package) if package not in sys.modules else None
    if spec is None:
        return
    sys.modules[package] = Postponed(package, frozenset(names))
    sys.modules[package].__spec__ = spec
    for module in modules:
        path = f"{package}.{module}"
        parent, _, own = path.rpartition(".")
        sys.modules[path] = Postponed(path, None)
        setattr(sys.modules[parent], own, sys.modules[path])


def is_postponed(name: str) -> bool:
    """Tell whether a module has not been imported and something stands in its place."""
    return isinstance(sys.modules.get(name), Postponed)


def _real(name: str) -> ModuleType:
    """Return the real module, after taking everything out of the way that stands for its package."""
    package = name.partition(".")[0]
    for path in [path for path in sys.modules if path.partition(".")[0] == package and is_postponed(path)]:
        del sys.modules[path]
    return import_module(name)
