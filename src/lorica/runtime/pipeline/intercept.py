"""Intercept the calls of an object's methods, for as long as needed, and leave no trace after (decision 0016).

A pipeline's ``__call__`` cannot be overridden on the object itself. So the object gets a subclass of its own class, of
the same name, whose listed methods call an interceptor; and later its own class again. Nothing else sees a difference:
other objects of the class, ``isinstance``, signatures, saving.
"""

from __future__ import annotations

import copyreg
import functools
import weakref
from collections.abc import Callable, Mapping
from typing import Any, cast

from lorica.errors import StateError

_MARK = "_lorica_interception"
Around = Callable[..., Any]  # (interceptor, object, the class's own method bound to the object, args, kwargs) -> result


class _Interception:
    """Mark on an intercepted object. On a copy of the object it has no effect."""

    def __init__(self, thing: Any, interceptor: Any, own: type) -> None:
        self.interceptor, self.own, self._thing = interceptor, own, weakref.ref(thing)

    def is_of(self, thing: Any) -> bool:
        """Whether this is the object that is intercepted, not a copy of it."""
        return self._thing() is thing

    def __deepcopy__(self, memo: dict[int, Any]) -> _Interception:
        """The mark itself: a copy of the interceptor, which holds the adapters, would be a second model."""
        del memo
        return self


def intercept(thing: Any, interceptor: Any, methods: Mapping[str, Around]) -> None:
    """Intercept the listed methods of one object; those that its class lacks are left out.

    Raises:
        StateError: if the object is intercepted for somebody else, as a scheduler has that two pipelines share.
    """
    known = _interception_of(thing)
    if known is not None and known.interceptor is not interceptor:
        raise StateError(
            f"this {type(thing).__name__} is followed for another pipeline's adapters just now. Let that one's "
            "schedule end first, or give each pipeline its own."
        )
    if known is None:
        known = thing.__dict__[_MARK] = _Interception(thing, interceptor, type(thing))
    if type(thing) is known.own:  # also where an interrupt came between the mark and the class
        found = {name: around for name, around in methods.items() if hasattr(known.own, name)}
        object.__setattr__(thing, "__class__", _twin(known.own, tuple(found.items())))


def release(thing: Any, interceptor: Any) -> None:
    """Give the object its own class again, if it is intercepted for this one."""
    if is_intercepted(thing, interceptor):
        object.__setattr__(thing, "__class__", thing.__dict__[_MARK].own)
        del thing.__dict__[_MARK]


def release_any(thing: Any) -> None:
    """Give the object its own class again, whomever it is intercepted for."""
    found = _interception_of(thing)
    if found is not None:
        release(thing, found.interceptor)


def is_intercepted(thing: Any, interceptor: Any) -> bool:
    """Whether the object is intercepted for this one."""
    found = _interception_of(thing)
    return found is not None and found.interceptor is interceptor


def _interception_of(thing: Any) -> _Interception | None:
    found = vars(thing).get(_MARK)
    return found if isinstance(found, _Interception) and found.is_of(thing) else None


@functools.cache
def _twin(own: type, methods: tuple[tuple[str, Around], ...]) -> type:
    """The subclass that stands in for ``own``."""
    names = {"__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__}
    told = {name: _told(own, name, around) for name, around in methods}
    return type(own.__name__, (own,), {**names, **told, "__reduce_ex__": _reduce})


def _reduce(self: Any, protocol: Any) -> Any:
    """Reduce to an object of the own class, for pickles and copies."""
    twin = type(self)
    own: Any = twin.__base__
    make, given, *rest = own.__reduce_ex__(self, protocol)
    if rest and isinstance(rest[0], dict):
        rest[0] = {name: value for name, value in cast("dict[str, Any]", rest[0]).items() if name != _MARK}
    usual: Any = copyreg.__newobj__  # type: ignore[attr-defined]
    makers = {twin: own, usual: _new}  # pickle refuses the usual one for an object of a subclass
    return (makers.get(make, make), tuple(own if one is twin else one for one in given), *rest)


def _new(own: Any, *given: Any) -> Any:
    return own.__new__(own, *given)


def _told(own: type, name: str, around: Around) -> Callable[..., Any]:
    method: Callable[..., Any] = getattr(own, name)

    @functools.wraps(method)
    def told(self: Any, *args: Any, **kwargs: Any) -> Any:
        found, plain = _interception_of(self), functools.partial(method, self)
        return plain(*args, **kwargs) if found is None else around(found.interceptor, self, plain, args, kwargs)

    return told
