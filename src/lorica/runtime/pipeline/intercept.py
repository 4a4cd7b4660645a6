"""Listen to calls of an object's methods, for as long as needed, and leave no trace after.

A pipeline's ``__call__`` cannot be overridden on the object itself. So the object is given a subclass of its own class,
of the same name, whose listed methods tell a listener; and later its own class again. Nothing else sees a difference:
other objects of the class, ``isinstance``, signatures, saving.
"""

from __future__ import annotations

import copyreg
import functools
import weakref
from collections.abc import Callable, Mapping
from typing import Any, cast

from lorica.errors import StateError

_EAR = "_lorica_ear"
Around = Callable[..., Any]  # (listener, object, the class's own method bound to the object, args, kwargs) -> result


class _Ear:
    """What an object with a listener carries. It hears nothing on a copy of the object."""

    def __init__(self, thing: Any, listener: Any, own: type) -> None:
        self.listener, self.own, self._thing = listener, own, weakref.ref(thing)

    def hears(self, thing: Any) -> bool:
        """Tell whether this is the object that was listened to, not a copy of it."""
        return self._thing() is thing

    def __deepcopy__(self, memo: dict[int, Any]) -> _Ear:
        """Return the ear itself: a copy of the listener, which holds the adapters, would be a second model."""
        del memo
        return self


def listen(thing: Any, listener: Any, methods: Mapping[str, Around]) -> None:
    """Let ``listener`` stand around the listed methods of one object; those that its class lacks are left out.

    Raises:
        StateError: if the object has another listener, as a scheduler has that two pipelines share.
    """
    if listens(thing, listener):
        return
    if _ear_of(thing) is not None:
        raise StateError(
            f"this {type(thing).__name__} is followed for another pipeline's adapters just now. Let that one's "
            "schedule end first, or give each pipeline its own."
        )
    own = type(thing)
    found = {name: around for name, around in methods.items() if hasattr(own, name)}
    thing.__dict__[_EAR] = _Ear(thing, listener, own)
    object.__setattr__(thing, "__class__", _twin(own, tuple(found.items())))


def unlisten(thing: Any, listener: Any) -> None:
    """Give the object its own class again, if it is this listener's."""
    if listens(thing, listener):
        object.__setattr__(thing, "__class__", thing.__dict__.pop(_EAR).own)


def silence(thing: Any) -> None:
    """Give the object its own class again, whoever listens."""
    ear = _ear_of(thing)
    if ear is not None:
        unlisten(thing, ear.listener)


def listens(thing: Any, listener: Any) -> bool:
    """Tell whether this listener is on the object."""
    ear = _ear_of(thing)
    return ear is not None and ear.listener is listener


def _ear_of(thing: Any) -> _Ear | None:
    ear = vars(thing).get(_EAR)
    return ear if isinstance(ear, _Ear) and ear.hears(thing) else None


@functools.cache
def _twin(own: type, methods: tuple[tuple[str, Around], ...]) -> type:
    """Return the subclass that stands in for ``own``."""
    names = {"__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__}
    told = {name: _told(own, name, around) for name, around in methods}
    return type(own.__name__, (own,), {**names, **told, "__reduce_ex__": _reduce})


def _reduce(self: Any, protocol: Any) -> Any:
    """Let a pickle or copy be an object of the own class, with nobody who listens."""
    twin = type(self)
    own: Any = twin.__base__
    make, given, *rest = own.__reduce_ex__(self, protocol)
    if rest and isinstance(rest[0], dict):
        rest[0] = {name: value for name, value in cast("dict[str, Any]", rest[0]).items() if name != _EAR}
    usual: Any = copyreg.__newobj__  # type: ignore[attr-defined]
    makers = {twin: own, usual: _new}  # pickle refuses the usual one for an object of a subclass
    return (makers.get(make, make), tuple(own if one is twin else one for one in given), *rest)


def _new(own: Any, *given: Any) -> Any:
    return own.__new__(own, *given)


def _told(own: type, name: str, around: Around) -> Callable[..., Any]:
    method: Callable[..., Any] = getattr(own, name)

    @functools.wraps(method)
    def told(self: Any, *args: Any, **kwargs: Any) -> Any:
        ear, plain = _ear_of(self), functools.partial(method, self)
        return plain(*args, **kwargs) if ear is None else around(ear.listener, self, plain, args, kwargs)

    return told
