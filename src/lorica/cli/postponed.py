"""Modules that are imported when they are first used: for verbs that mostly do without a slow one, such as torch.

``import torch`` finds whatever stands under that name. What is put there knows nothing, and imports the real module the
first time that something is asked of it. So a file may import torch at its top and still be loaded in a millisecond,
unless it asks at once (a base class, a table of dtypes): that is right as well, but as slow as ever. Classes that files
import for their signatures are stood for in the same way.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_IMPORT_SYSTEM = "<frozen importlib._bootstrap>"  # asks for a package's path when it does import a module of it


class Postponed(ModuleType):
    """A module that stands for another until something is asked of it."""

    def __getattr__(self, name: str) -> Any:
        """Import the real module, which takes this one's place, and ask it."""
        if name == "__path__" and sys._getframe(1).f_code.co_filename != _IMPORT_SYSTEM:
            raise AttributeError(name)  # ``from torch import nn`` looks whether it may have to import torch.nn
        value = getattr(_real(self.__name__), name)
        setattr(self, name, value)
        return value


class PostponedClass(type):
    """The type of a class that stands for another: asking whether something is one of it imports the module."""

    def __instancecheck__(cls, instance: object) -> bool:
        """Tell whether something is an instance of the real class."""
        return isinstance(instance, cls._class())

    def __subclasscheck__(cls, subclass: type) -> bool:
        """Tell whether a class is derived from the real one."""
        return issubclass(subclass, cls._class())

    def __getattr__(cls, name: str) -> Any:
        """Ask the real class."""
        return getattr(cls._class(), name)

    def _class(cls) -> Any:
        return getattr(_real(cls.__module__), cls.__name__)


def postpone(name: str, *, modules: tuple[str, ...] = (), classes: tuple[str, ...] = ()) -> None:
    """Let a package be imported when it is first used. If it is imported already, it stays as it is.

    Args:
        name: the package, such as ``torch``.
        modules: modules in it that are imported by themselves, such as ``nn``, each after the one that it is in.
        classes: classes in it that are imported by name, such as ``Tensor``.
    """
    if name in sys.modules or find_spec(name) is None:
        return
    for path in (name, *(f"{name}.{inner}" for inner in modules)):
        sys.modules[path] = Postponed(path)
        parent, _, own = path.rpartition(".")
        if parent:
            setattr(sys.modules[parent], own, sys.modules[path])
    for own in classes:
        setattr(sys.modules[name], own, PostponedClass(own, (), {"__module__": name}))


def is_postponed(name: str) -> bool:
    """Tell whether a module has not been imported and something stands in its place."""
    return isinstance(sys.modules.get(name), Postponed)


def _real(name: str) -> ModuleType:
    """Return the real module, after taking everything out of the way that stands for its package."""
    package = name.partition(".")[0]
    for path in [path for path in sys.modules if path.partition(".")[0] == package and is_postponed(path)]:
        del sys.modules[path]
    return import_module(name)
