"""What the formats share that name modules by a table: looked up in the target, or in the family that fits best."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from lorica.adapters import Adapter, AdapterLayer
from lorica.errors import FormatError
from lorica.formats.account import Account, spelling_of
from lorica.formats.base_model import sentence, widened
from lorica.formats.dialects.dialect import Dialect, Parsed
from lorica.formats.embeddings import embedding_tensors, read_embeddings
from lorica.formats.keys_to_modules import EMBEDDINGS, FileModules, Keys, Split, split_dotted, split_flat
from lorica.formats.methods.leaves import leaf_tables
from lorica.formats.methods.method import Form
from lorica.formats.names import BARE_MODULE, Location, Prefixes, name_table
from lorica.formats.storage.files import FileContents
from lorica.formats.writing import Writer, flat_or_dotted, model_of, names_for, refuse_embeddings, shapes_for
from lorica.models import FAMILIES, Target
from lorica.models.detect import Candidate, detect
from lorica.models.folding import Shape

_EVERY = ("unet", "transformer", "prior", "text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")
_ALIKE = 6  # families that fit a file alike and whose names are compared


@dataclass(frozen=True, kw_only=True, eq=False)
class NamedDialect(Dialect):
    """A format that names modules by a table: mostly data, and read only.

    Args:
        starts: what its keys begin with, and no other format's.
        prefixes: component to the prefixes of its names: all are read, and the first is written.
        joint: what stands for a dot.
        styles: the spellings that are preferred to the model's own paths when it is written.
        numbered: whether the parts of a fused weight have names of their own, which end in a number.
    """

    starts: tuple[str, ...] = ()
    prefixes: Prefixes
    joint: str = "."
    styles: Collection[str] = ()
    numbered: bool = False

    def recognises(self, keys: Keys) -> bool:
        """Whether any key begins as only this format's do."""
        return keys.start(*self.starts)

    def prefixes_of(self, model: Target) -> Prefixes:
        """The prefixes for one model."""
        del model
        return self.prefixes

    def split(self, contents: FileContents, account: Account) -> Split:
        """Each key with the name of its module and its meaning; others are left in the account."""
        keys = contents.tensors
        if self.joint != ".":
            return split_flat(keys)
        return split_dotted({key: None for key in keys if not key.startswith(EMBEDDINGS)}, account)

    def table(self, model: Target) -> Mapping[str, Location]:
        """Location by every name that the format may have for the modules of a model."""
        return name_table(model, self.prefixes_of(model), self.joint, numbered=self.numbered)

    def parse(self, contents: FileContents, target: Target | None, account: Account) -> Parsed:
        """The meaning of the keys: looked up in the target's table, or in that of the family that fits best."""
        embeddings = read_embeddings(contents, account)
        modules = FileModules(contents, self.split(contents, account))
        if target is None:
            account.candidates = detect(self._sizes(modules))
        models = [target] if target else self._best_families(contents, modules, account.candidates)
        table = self.table(models[0])
        if account.candidates and not account.candidates[0].fits:
            known = ((table[name], modules.sizes[kind]) for name, kind in modules.kinds.items() if name in table)
            sizes = ((location.component, location.parts[0].path, size) for location, size in known)
            models = [widened(models[0], sizes)]
        account.spelling.models = models
        missing = f"no module of {models[0].name} has this name."
        return Parsed(
            modules,
            lambda name: table.get(name) or table.get(name.rstrip("_"), missing),
            models[0],
            known=lambda: list(table),
            embeddings=embeddings,
        )

    def _best_families(
        self, contents: FileContents, modules: FileModules, candidates: Sequence[Candidate]
    ) -> list[Target]:
        """The families that a file is for, by names and sizes of its modules: those that have the most of them.

        Raises:
            FormatError: if no family known has any of its names.
        """
        fitting = [candidate for candidate in candidates if candidate.fitting]
        alike = [candidate for candidate in fitting if candidate.fitting == fitting[0].fitting][:_ALIKE]
        if len(alike) == 1:
            return [FAMILIES[alike[0].family].target]
        tables = {each: self.table(FAMILIES[each.family].target) for each in alike}
        named = {each: sum(map(table.__contains__, modules.leaves)) for each, table in tables.items()}
        if not any(named.values()):
            raise FormatError(
                f"{contents.source} has {self.name} names, which only the base model can turn into module paths, and "
                f"none of its {len(modules.leaves)} modules fits a family known here. Pass target= for its base model, "
                f"or load it on the live model with attach(model).load(...). {sentence(contents.tensors, None)}"
            )
        best = [each for each, count in named.items() if count == max(named.values())]
        return [FAMILIES[each.family].target for each in best if each.reached == best[0].reached]

    def _sizes(self, modules: FileModules) -> dict[str, dict[str, Shape | None]]:
        """Component to the names behind its prefix to outputs and inputs, as far as the file tells.

        A prefix that several components have gives the component of :data:`BARE_MODULE`: any.
        """
        starts = self._components()
        longest = max(map(len, starts), default=0)
        begin = re.compile("|".join(map(re.escape, starts))).match
        found: dict[str, dict[str, Shape | None]] = {}
        homes: dict[str, tuple[dict[str, Shape | None], int]] = {}  # by the few beginnings that occur
        sizes = modules.sizes
        for name, kind in modules.kinds.items():
            head = name[:longest]
            if head not in homes:
                started = begin(head)
                start = started[0] if started else ""
                homes[head] = found.setdefault(starts.get(start, BARE_MODULE), {}), len(start)
            home, cut = homes[head]
            home[name[cut:]] = sizes[kind]
        return found

    def _components(self) -> dict[str, str]:
        """Beginnings of names, the longest first, to the component, or to any if several share it."""
        homes: dict[str, list[str]] = {}
        for component, prefixes in self.prefixes_of(Target("any", {name: {} for name in _EVERY})).items():
            for prefix in prefixes:
                homes.setdefault(prefix + self.joint if prefix else "", []).append(component)
        order = sorted(homes, key=len, reverse=True)
        return {start: homes[start][0] if len(homes[start]) == 1 else BARE_MODULE for start in order}


@dataclass(frozen=True, kw_only=True, eq=False)
class WrittenDialect(NamedDialect):
    """Such a format that is written as well.

    Args:
        lone_embedding: the leaf for the words of an only text encoder; None where files hold no words.
        metadata: what is written with every file.
    """

    lone_embedding: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])

    def leaves(self) -> Mapping[str, str]:
        """Meaning to what is written behind a module's name."""
        return leaf_tables().lycoris

    def special(self, layer: AdapterLayer, name: str) -> Form | None:
        """The tensors of a layer behind the module's name, where the leaves alone do not say them."""
        del layer, name

    def styles_of(self, model: Target | None) -> Collection[str]:
        """The styles for one model."""
        del model
        return self.styles

    def compose(self, adapter: Adapter, target: Target | None) -> tuple[dict[str, Tensor], Mapping[str, str]]:
        """The tensors under the names of this format, and the metadata that they need.

        Raises:
            FormatError: listing what the format cannot hold.
        """
        spelling = spelling_of(adapter, self.name)
        words: dict[str, Tensor] = {}
        if self.lone_embedding is None:
            refuse_embeddings(adapter, self.name)
        else:
            words = embedding_tensors(adapter, spelling, alone=self.lone_embedding)
        model = self.model_for(adapter, target)
        prefixes = self.prefixes_of(model or Target("the adapter", {name: {} for name in adapter.components}))
        writer = Writer(self.name, self.leaves(), spelling, special=self.special)
        for component, layers in adapter.components.items():
            if component not in prefixes:
                raise FormatError(
                    f"the {self.name} format has no name for the component {component!r}. "
                    f"Known: {', '.join(prefixes)}. Use format='diffusers'."
                )
            dotted = self._names_of(adapter, component, model, self.styles_of(model))
            names = flat_or_dotted(dotted, prefixes[component][0], self.joint)
            writer.add_component(component, layers, names)
        return {**writer.finish(), **words}, self.metadata

    def model_for(self, adapter: Adapter, target: Target | None) -> Target | None:
        """The model whose names a file gets: the one given, or else what the adapter says; None if none is known."""
        return model_of(adapter, target, partial(self._names_in, adapter))

    def _names_of(
        self, adapter: Adapter, component: str, model: Target | None, styles: Collection[str]
    ) -> dict[str, Location]:
        """The dotted names that are written for the modules of a component."""
        return names_for(shapes_for(adapter, component, model), component, styles, numbered=self.numbered)

    def _names_in(self, adapter: Adapter, model: Target) -> dict[str, str]:
        """The names that are written for an adapter's modules if it is for a model."""
        found: dict[str, str] = {}
        for component, layers in adapter.components.items():
            names = self._names_of(adapter, component, model, self.styles)
            name_of = {path: name for name, location in names.items() for path in location.paths()}
            written = {path: name_of.get(path, path).replace(".", self.joint) for path in layers}
            found.update({f"{component}.{path}": name for path, name in written.items()})
        return found


def with_second_t5(prefixes: Prefixes, model: Target) -> Prefixes:
    """The prefixes for a model whose second text encoder is what others have as the third, a T5: Flux."""
    if "transformer" in model.components and "text_encoder_3" not in model.components:
        return {**prefixes, "text_encoder_2": prefixes["text_encoder_3"]}
    return prefixes
