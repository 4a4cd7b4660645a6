"""What the formats with flat names share: a table of names, looked up in the target or in the family that fits best."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from torch import Tensor

from lorica.adapters import Adapter
from lorica.errors import FormatError
from lorica.formats import looks
from lorica.formats.dialect import Parsed
from lorica.formats.files import Stored
from lorica.formats.layers import group
from lorica.formats.leaves import LEAVES
from lorica.formats.names import Prefixes, flat_name, flat_names, name_table
from lorica.formats.places import Place
from lorica.formats.spelling import spelling_of
from lorica.formats.writing import LYCORIS_LEAVES, Writer, model_of, names_for, shapes_for
from lorica.models import FAMILIES, Target

FLAT_LEAVES = {**LEAVES, "weight": "ia3.scale"}  # behind a dotted name, ``weight`` would be the end of many a leaf


def parse_flat(stored: Stored, target: Target | None, prefixes: Prefixes) -> Parsed:
    """Return the meaning of the keys: looked up in the target's table, or in that of the family that fits best."""
    modules = group(split_flat(stored.tensors), stored.source)
    model = target or best_family(stored, prefixes)
    table = name_table(model, prefixes, "_")
    missing = f"no module of {model.name} has this flat name."
    return Parsed(modules, lambda name: table.get(name, missing), model, known=lambda: list(table))


def split_flat(keys: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Yield each key with the module's name, which ends at the first dot, and its meaning."""
    for key in keys:
        name, _, leaf = key.partition(".")
        yield key, name, FLAT_LEAVES.get(leaf, leaf)


def compose_flat(
    adapter: Adapter, target: Target | None, format_name: str, prefixes: Prefixes, styles: Collection[str]
) -> dict[str, Tensor]:
    """Return the tensors under flat names.

    Args:
        adapter: what to write.
        target: the model that it is for, if it is known.
        format_name: for messages.
        prefixes: component to the prefix that is written.
        styles: the spellings that the format prefers to the model's own paths.

    Raises:
        FormatError: listing what the format cannot hold.
    """
    model = model_of(adapter, target)
    writer = Writer(format_name, LYCORIS_LEAVES, spelling_of(adapter, format_name))
    for component, layers in adapter.components.items():
        if component not in prefixes:
            raise FormatError(
                f"the {format_name} format has no name for the component {component!r}. Known: {', '.join(prefixes)}. "
                "Use format='diffusers'."
            )
        prefix = prefixes[component][0]
        names = names_for(shapes_for(adapter, component, model), component, styles)
        flat_names(names, prefix)
        writer.add_component(component, layers, {flat_name(name, prefix): place for name, place in names.items()})
    return writer.finish()


def best_family(stored: Stored, prefixes: Prefixes) -> Target:
    """Return the family that has the most of the file's modules in their sizes.

    Raises:
        FormatError: if none has any.
    """
    sizes = dict(_sizes(stored.tensors))
    targets = [family.target for family in FAMILIES.values()]
    counts = [_count_fitting(sizes, target, prefixes) for target in targets]
    if sizes and not max(counts):
        raise FormatError(
            f"{stored.source} has flat (Kohya) names, which only the base model can turn into module paths, and none "
            f"of its {len(sizes)} modules fits {', '.join(target.name for target in targets)}. Pass target= for its "
            "base model, or load it on the live model with attach(model).load(...). "
            f"{looks.sentence(stored.tensors, None)}"
        )
    return targets[counts.index(max(counts))]


def _sizes(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the flat name, the outputs and the inputs of every module that has both halves."""
    for key, up in tensors.items():
        flat, _, leaf = key.partition(".")
        down = tensors.get(f"{flat}.lora_down.weight")
        if leaf == "lora_up.weight" and down is not None and min(up.ndim, down.ndim) > 1:
            yield flat, (up.shape[0], down.shape[1])


def _count_fitting(sizes: Mapping[str, tuple[int, int]], target: Target, prefixes: Prefixes) -> int:
    table, components = name_table(target, prefixes, "_"), target.components
    places: Iterable[tuple[Place | None, tuple[int, int]]] = ((table.get(flat), size) for flat, size in sizes.items())
    return sum(place is not None and place.shape_in(components[place.component])[:2] == size for place, size in places)
