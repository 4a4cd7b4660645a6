"""What the formats share that name modules by a table: looked up in the target, or in the family that fits best."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from lorica.adapters import Adapter
from lorica.errors import FormatError
from lorica.formats import looks
from lorica.formats.account import Account
from lorica.formats.dialects.dialect import Parsed
from lorica.formats.embeddings import START, Embeddings, read_embeddings
from lorica.formats.layout import LAYOUTS, Layout, Split
from lorica.formats.methods.layers import Leaves
from lorica.formats.methods.leaves import split_dotted
from lorica.formats.model import model_of
from lorica.formats.names import BARE_MODULE, Prefixes, name_table
from lorica.formats.places import Place, Shape
from lorica.formats.spelling import spelling_of
from lorica.formats.storage.files import Stored
from lorica.formats.widened import widened
from lorica.formats.writing import Writer, flat_or_dotted, names_for, shapes_for
from lorica.models import FAMILIES, Target
from lorica.models.detect import Candidate, detect

EVERY = ("unet", "transformer", "prior", "text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")
_CANDIDATES = 6  # families that fit a file alike and whose names are compared


@dataclass(frozen=True, slots=True)
class Naming:
    """How a format names modules.

    Args:
        format: the format's name.
        prefixes: a model to component to the prefixes of its names: all are read, and the first is written.
        joint: what stands for a dot.
        styles: the spellings that it prefers to the model's own paths when it is written.
        numbered: whether the parts of a fused weight have names of their own, which end in a number.
        more: what makes further names from the table, if there are some.
    """

    format: str
    prefixes: Callable[[Target], Prefixes]
    joint: str
    styles: Collection[str] = ()
    numbered: bool = False
    more: Callable[[Mapping[str, Place]], Mapping[str, Place]] | None = None

    def starts(self) -> dict[str, str]:
        """Map what names begin with, the longest first, to the component, or to any if several share it."""
        everything = Target("any", {name: {} for name in EVERY})
        homes: dict[str, list[str]] = {}
        for component, prefixes in self.prefixes(everything).items():
            for prefix in prefixes:
                homes.setdefault(prefix + self.joint if prefix else "", []).append(component)
        order = sorted(homes, key=len, reverse=True)
        return {start: homes[start][0] if len(homes[start]) == 1 else BARE_MODULE for start in order}

    def table(self, model: Target) -> Mapping[str, Place]:
        """Map every name that the format may have for the modules of a model to where it stands."""
        table = name_table(model, self.prefixes(model), self.joint, numbered=self.numbered)
        return self.more(table) if self.more else table


def parse_named(stored: Stored, target: Target | None, account: Account, naming: Naming, split: Split) -> Parsed:
    """Return the meaning of the keys: looked up in the target's table, or in that of the family that fits best."""
    embeddings = read_embeddings(stored, account)
    return _parsed(stored, target, account, naming, Layout.of(stored, split), embeddings)


def parse_flat(stored: Stored, target: Target | None, account: Account, naming: Naming) -> Parsed:
    """Return the same of a file with flat names, whose layout may be known from another file."""
    return _parsed(stored, target, account, naming, LAYOUTS.of(stored), read_embeddings(stored, account))


def _parsed(
    stored: Stored, target: Target | None, account: Account, naming: Naming, layout: Layout, embeddings: Embeddings
) -> Parsed:
    modules = layout.modules
    if target is None:
        account.candidates = _detected(layout, naming)
    models = [target] if target else best_families(stored, modules, naming, account.candidates)
    table = naming.table(models[0])
    if account.candidates and not account.candidates[0].fits:
        known = ((table[name], layout.sizes[kind]) for name, kind in layout.kinds.of.items() if name in table)
        models = [widened(models[0], ((place.component, place.parts[0].path, size) for place, size in known))]
    model, account.spelling.models = models[0], models
    missing = f"no module of {model.name} has this name."
    return Parsed(
        modules,
        lambda name: table.get(name, missing),
        model,
        known=lambda: list(table),
        embeddings=embeddings,
        kinds=layout.kinds,
    )


def _detected(layout: Layout, naming: Naming) -> Sequence[Candidate]:
    """Return the families that the modules of a layout may be for; looked for once."""
    if naming not in layout.detected:
        layout.detected[naming] = detect(sizes_of(layout, naming))
    return layout.detected[naming]


def split_all(keys: Collection[str], account: Account) -> Iterator[tuple[str, str, str]]:
    """Yield each key with the module's name and its meaning, leaving those whose ending is not known."""
    for key in keys:
        found = None if key.startswith(START) else split_dotted(key)
        name = key.removesuffix(".weight")
        if found:
            yield key, *found
        elif f"{name}.on_input" in keys:
            yield key, name, "ia3.scale"
        elif not key.startswith(START):
            account.leave([key], "its ending is none that this format knows.")


def compose_named(
    adapter: Adapter, target: Target | None, naming: Naming, leaves: Mapping[str, str]
) -> dict[str, Tensor]:
    """Return the tensors of the layers under the names of a format.

    Raises:
        FormatError: listing what the format cannot hold.
    """
    model = model_for(adapter, target, naming)
    prefixes = naming.prefixes(model or Target("the adapter", {name: {} for name in adapter.components}))
    writer = Writer(naming.format, leaves, spelling_of(adapter, naming.format))
    for component, layers in adapter.components.items():
        if component not in prefixes:
            raise FormatError(
                f"the {naming.format} format has no name for the component {component!r}. "
                f"Known: {', '.join(prefixes)}. Use format='diffusers'."
            )
        names = _names_of(adapter, component, naming, model)
        start = prefixes[component][0]
        writer.add_component(component, layers, flat_or_dotted(names, start, naming.joint))
    return writer.finish()


def model_for(adapter: Adapter, target: Target | None, naming: Naming) -> Target | None:
    """Return the model whose names a format writes: the one given, or else what the adapter says, or None.

    Raises:
        FormatError: if it may be for several models whose modules the format names differently.
    """
    return model_of(adapter, target, partial(_names_in, adapter, naming))


def _names_of(adapter: Adapter, component: str, naming: Naming, model: Target | None) -> dict[str, Place]:
    """Return the dotted names that a format writes for the modules of a component."""
    return names_for(shapes_for(adapter, component, model), component, naming.styles, numbered=naming.numbered)


def _names_in(adapter: Adapter, naming: Naming, model: Target) -> dict[str, str]:
    """Return the names that a format writes for an adapter's modules if it is for a model."""
    found: dict[str, str] = {}
    for component, layers in adapter.components.items():
        names = _names_of(adapter, component, naming, model)
        name_of = {path: name for name, place in names.items() for path in place.paths()}
        written = {path: name_of.get(path, path).replace(".", naming.joint) for path in layers}
        found.update({f"{component}.{path}": name for path, name in written.items()})
    return found


def best_families(
    stored: Stored, modules: Mapping[str, Leaves], naming: Naming, candidates: Sequence[Candidate]
) -> list[Target]:
    """Return the families that a file is for, by the names and sizes of its modules: those that have the most of them.

    Raises:
        FormatError: if no family known has any of its names.
    """
    fitting = [candidate for candidate in candidates if candidate.fitting]
    alike = [candidate for candidate in fitting if candidate.fitting == fitting[0].fitting][:_CANDIDATES]
    if len(alike) == 1:
        return [FAMILIES[alike[0].family].target]
    named = {each: _count_named(each, modules, naming) for each in alike}
    if not any(named.values()):
        raise FormatError(
            f"{stored.source} has {naming.format} names, which only the base model can turn into module paths, and "
            f"none of its {len(modules)} modules fits a family known here. Pass target= for its base model, or load it "
            f"on the live model with attach(model).load(...). {looks.sentence(stored.tensors, None)}"
        )
    best = [each for each, count in named.items() if count == max(named.values())]
    return [FAMILIES[each.family].target for each in best if each.reached == best[0].reached]


def _count_named(candidate: Candidate, modules: Mapping[str, Leaves], naming: Naming) -> int:
    return sum(map(naming.table(FAMILIES[candidate.family].target).__contains__, modules))


def sizes_of(layout: Layout, naming: Naming) -> dict[str, dict[str, Shape | None]]:
    """Return component to the names behind its prefix to outputs and inputs, as far as the file tells.

    A prefix that several components have gives the component of :data:`BARE_MODULE`: any.
    """
    starts = naming.starts()
    longest = max(map(len, starts), default=0)
    begin = re.compile("|".join(map(re.escape, starts))).match
    found: dict[str, dict[str, Shape | None]] = {}
    homes: dict[str, tuple[dict[str, Shape | None], int]] = {}  # by the beginnings that occur, of which there are few
    for name, kind in layout.kinds.of.items():
        head = name[:longest]
        if head not in homes:
            started = begin(head)
            start = started[0] if started else ""
            homes[head] = found.setdefault(starts.get(start, BARE_MODULE), {}), len(start)
        home, cut = homes[head]
        home[name[cut:]] = layout.sizes[kind]
    return found
