"""Which model an adapter is for, where the caller does not say: whose names its modules get in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lorica.adapters import Adapter
from lorica.errors import FormatError
from lorica.formats import looks
from lorica.formats.spelling import Spelling
from lorica.models import Target

Names = Callable[[Target], Mapping[str, str]]  # a model to component and path, as one text, to the name in a file


def model_of(adapter: Adapter, target: Target | None, names: Names) -> Target | None:
    """Return the model that an adapter is for, or None if none is known that it fits.

    It is the one given; or that in which the names of its file were looked up; or that of the first family that it
    fits. Families that it fits alike (dev and schnell of Flux) must name its modules alike.

    Raises:
        FormatError: if they do not (Flux and HunyuanVideo), naming them.
    """
    if target is not None:
        return target
    models = _models_of_its_file(adapter) or [family.target for family in looks.likeliest_families(adapter)]
    if not models:
        return None
    first = names(models[0])
    for other in models[1:]:
        _check_alike(first, names(other), models[0], other)
    return models[0]


def _models_of_its_file(adapter: Adapter) -> list[Target]:
    """Return the models that the names in an adapter's file are of and that it still fits."""
    spelling = adapter.report.spelling if adapter.report else None
    models = spelling.models if isinstance(spelling, Spelling) else ()
    return [model for model in models if looks.fits(adapter, model)]


def _check_alike(one: Mapping[str, str], other: Mapping[str, str], model: Target, rival: Target) -> None:
    for module, name in one.items():
        if name != other[module]:
            raise FormatError(
                f"the adapter fits {model.name} and {rival.name} alike, and {module} is {name!r} in a file for the one "
                f"and {other[module]!r} for the other. Name its base model: target= (--model)."
            )
