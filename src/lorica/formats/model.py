"""Which model an adapter is for, where the caller does not say: whose names its modules get in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lorica.adapters import Adapter
from lorica.errors import FormatError
from lorica.formats import looks
from lorica.formats.spelling import Spelling
from lorica.formats.widened import widened
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
    models = _models_of_its_file(adapter) or _models_that_fit(adapter)
    if not models:
        return None
    named = [names(model) for model in models]
    differing = next((module for module, name in named[0].items() if any(name != each[module] for each in named)), None)
    if differing is not None:
        ways = " or ".join(f"{each[differing]!r} ({model.name})" for each, model in zip(named, models, strict=True))
        raise FormatError(
            f"the adapter fits several base models alike, which have names of their own in such a file: {differing} is "
            f"{ways}. Name the one that it is for: target= (--model)."
        )
    return models[0]


def _models_of_its_file(adapter: Adapter) -> list[Target]:
    """Return the models that the names in an adapter's file are of and that it still fits."""
    spelling = adapter.report.spelling if adapter.report else None
    models = spelling.models if isinstance(spelling, Spelling) else ()
    return [model for model in models if looks.fits(adapter, model)]


def _models_that_fit(adapter: Adapter) -> list[Target]:
    sizes = [(component, path, layer.weight_shape) for component, path, layer in adapter.layers()]
    return [widened(family.target, sizes) for family in looks.likeliest_families(adapter)]
