"""Lazy imports: modules that are loaded when they are first used, for verbs that mostly do without a slow one.

``import torch`` finds whatever ``sys.modules`` holds under that name. A stand-in that is put there loads the real
module when one of its attributes is used. So a file may import torch at its top and still be loaded in a millisecond,
as long as it only names classes and functions to use later. A file that does more gets the right result as well, at
the price of the import (decision 0012).
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_IMPORT_SYSTEM = "<frozen importlib._bootstrap>"  # reads a package's path when it imports a module of it


class Deferred:
    """Stand-in for a class or function of a postponed module: callable, subclassable, usable with ``isinstance``."""

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call of the real one."""
        return self._real()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Attribute of the real one."""
        return getattr(self._real(), name)

    def __instancecheck__(self, instance: object) -> bool:
        """Whether something is an instance of the real one."""
        return isinstance(instance, self._real())

    def __subclasscheck__(self, subclass: type) -> bool:
        """Whether a class is derived from the real one."""
        return issubclass(subclass, self._real())

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        """The real one, as the base of a derived class."""
        del bases
        return (self._real(),)

    def __or__(self, other: Any) -> Any:
        """Union of the real one with another type."""
        return self._real() | other

    def __eq__(self, other: object) -> bool:
        """Whether the other is the real one."""
        return self is other or self._real() == other

    def __hash__(self) -> int:
        """Hash of the real one."""
        return hash(self._real())

    def _real(self) -> Any:
        return getattr(_real(self._module), self._name)


class Postponed(ModuleType):
    """Stand-in for a module until one of its attributes is used.

    Args:
        name: the module.
        deferred: the classes and functions in it that can be named before it is imported; None for everything in it.
    """

    def __init__(self, name: str, deferred: frozenset[str] | None) -> None:
        super().__init__(name)
        self.__file__ = None
        self._deferred = deferred

    def __getattr__(self, name: str) -> Any:
        """Stand-in for a class or function; for anything else, the attribute of the real module, which is imported."""
        own = self.__name__
        caller = sys._getframe(1).f_code.co_filename  # type: ignore[reportPrivateUsage]
        if name == "__path__" and caller != _IMPORT_SYSTEM:
            raise AttributeError(name)  # ``from torch import nn`` checks whether it may have to import torch.nn
        if is_postponed(own) and not name.startswith("_") and (self._deferred is None or name in self._deferred):
            return Deferred(own, name)
        return getattr(_real(own), name)


def postpone(package: str, *, names: tuple[str, ...] = (), modules: tuple[str, ...] = ()) -> None:
    """Postpone the import of a package until its first use. One that is imported already stays as it is.

    Args:
        package: such as ``torch``; or a single module of one, such as ``safetensors.torch``.
        names: its classes that files name at their top, such as ``Tensor``.
        modules: its modules of which files name classes and functions, such as ``nn``; parents before children.
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
    """Whether a module has not been imported yet and has a stand-in."""
    return isinstance(sys.modules.get(name), Postponed)


def _real(name: str) -> ModuleType:
    """The real module, imported after the stand-ins of its package are removed."""
    package = name.partition(".")[0]
    for path in [path for path in sys.modules if path.partition(".")[0] == package and is_postponed(path)]:
        del sys.modules[path]
    return import_module(name)
