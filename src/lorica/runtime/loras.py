"""The adapters of one live pipeline: loaded, weighted, switched, fused, removed. Every operation is all or nothing."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from lorica.adapters import Adapter
from lorica.errors import ConfigError
from lorica.formats import read
from lorica.runtime.bank.reserve import places_to_reserve
from lorica.runtime.engine import guidance_of
from lorica.runtime.fusing.originals import Backup
from lorica.runtime.live import Live
from lorica.runtime.model.plan import plan_load
from lorica.runtime.model.shared import check_alone
from lorica.runtime.pages import KEPT_BY_NOBODY, PAGES, WEIGHTS
from lorica.runtime.pipeline.threads import in_turn
from lorica.runtime.roster import Source, resolve_plan
from lorica.runtime.shown import Shown
from lorica.runtime.strengths import Strength


class Loras(Live, Shown):
    """The adapters of a pipeline or module; made by :func:`lorica.attach`.

    A loaded adapter is live (it acts beside the weights, at a strength that can change at any moment), fused (it is
    inside the weights) or off.
    """

    @in_turn
    def load(self, source: Source, name: str | None = None, strength: Strength = 1.0, *, replace: bool = False) -> str:
        """Load an adapter and switch it on beside those already on. Returns its name.

        Args:
            source: a file, a folder, a Hub id, a state dict, or an :class:`~lorica.adapters.Adapter`.
            name: what to call it; by default the file's own name, made unique.
            strength: one number, or numbers by component, block and module.
            replace: let it take the place of the adapter of that name, if there is one, in one step: a hot swap. The
                old one stays if anything is wrong with the new one. Where room was reserved and the ranks differ, it
                must hold both.

        Raises:
            StateError: if the name is taken, or is to be replaced and fused.
            LoRAError: if the file cannot be read or does not fit the model, which is then unchanged.
        """
        self._calls.pick_up(replace=not self.names)
        target = self._layout.target()
        adapter = source if isinstance(source, Adapter) else read(source, target=target)
        roster, name = self._roster, self._roster.free_name(source, name, replace=replace)
        self._check_live()
        plan = plan_load(adapter, self._layout, name)
        strength = copy.deepcopy(strength)  # the caller may go on changing the mappings within
        resolved = resolve_plan(strength, plan)
        roster.check_no_samples("loading another adapter")
        words = self._vocabulary.prepare(name, adapter.embeddings)
        live = {**roster.live, name: (strength, resolved)}
        self._residents.show({**roster.plans, name: plan}, self._rows(live), gone=[name])
        roster.add(name, adapter, plan, (strength, resolved))
        self._vocabulary.add(name, adapter.embeddings, words)
        self._mark_components()
        return name

    @in_turn
    def fuse(self, strengths: Mapping[str, Strength], backup: Backup = "cpu") -> None:
        """Put adapters into the weights at these strengths, and take them out of the live set.

        Other fused adapters stay as they are; one that is fused already gets the new strength. Weights are computed
        from the originals in float32 with one rounding.

        Args:
            strengths: the adapters to fuse; those not named stay as they are.
            backup: where the originals of weights stay that nothing was fused into before: ``cpu`` keeps a copy in
                main memory; ``reload`` reads them again from the checkpoint that the component was loaded from (which
                is compared first); ``none`` gives them up, so that unfusing is refused.

        Raises:
            UnknownNameError: if an adapter, component, block, module or backup is unknown.
            ModelError: if a weight is quantised or away, a bias is missing, or the checkpoint does not hold it.
            StateError: if a weight was fused into without a backup, or an adapter is limited to a region. The model
                is unchanged after any error.
        """
        strengths = copy.deepcopy(dict(strengths))  # the caller may go on changing the mappings within
        resolved = {name: values for name, (_, values) in self._roster.resolved(strengths).items()}
        self.bounds.check_free(strengths)
        check_alone(self.components, (place for values in resolved.values() for place in values))
        self._move(
            {**self._roster.in_weights, **strengths}, self._fused.with_more(resolved, self._roster.plans), backup=backup
        )

    @in_turn
    def unfuse(self, *names: str) -> None:
        """Take adapters out of the weights (by default all that are fused); they are off until :meth:`set`.

        A weight that no fused adapter is left in is the original, bit for bit.

        Raises:
            StateError: if one of them is not fused; nothing is changed then.
        """
        self._roster.check_fused(names)
        gone = names or tuple(self._roster.in_weights)
        kept = {name: strength for name, strength in self._roster.in_weights.items() if name not in gone}
        self._move(kept, self._fused.without(gone))

    @in_turn
    def remove(self, name: str) -> None:
        """Take one adapter off the model, out of the weights too if it is fused."""
        self._roster.known(name)
        kept = {other: value for other, value in self._roster.in_weights.items() if other != name}
        self._move(kept, self._fused.without([name]), gone=[name])

    @in_turn
    def clear(self) -> None:
        """Take all adapters off the model."""
        self._move({}, self._fused.without(self.names), gone=self.names)

    @in_turn
    def detach(self) -> None:
        """Take the engine off: the model is again what it was, bit for bit and key for key.

        What was fused with ``backup="none"`` stays in the weights. Memory is given back to the system, save for 1 GB at
        most where factors were, which the next adapters get.
        """
        self._move({}, self._fused.without(self.names, lost=False), gone=self.names, bare=True)
        self._fused.let_be()
        PAGES.trim(KEPT_BY_NOBODY)
        WEIGHTS.trim()
        self._enabled = True

    @in_turn
    def reserve(self, rank: int, modules: str | Sequence[str] = "all") -> None:
        """Set room aside in every component, before ``torch.compile``: what is loaded later compiles nothing again.

        Adapters of any ranks whose sum stays within ``rank``, on any of these modules, can then be loaded, set and
        removed. A file that needs more is refused, and the message says by how much.

        Args:
            rank: the rows set aside on each module, for all adapters together.
            modules: a preset (``attention``, ``attention+ff``, ``all-linear``, ``all``) or globs on module paths.

        Raises:
            ConfigError: if the rank is not positive.
            UnknownNameError: if a preset or glob matches nothing.
        """
        if rank < 1:
            raise ConfigError(f"the reserved rank must be at least 1, got {rank}.")
        places = places_to_reserve(self.components, modules)
        rows = self._rows(self._roster.live, self._roster.samples)
        self._banks.commit(self._banks.prepare_room(places, rank), rows, guidance_of(self._roster.samples))
        self._mark_components()

    @in_turn
    def limit_memory(self, size: int | None) -> None:
        """Bound the memory of adapters that are copied into the model's banks; those that act are always there.

        Of the others the ones that acted last are kept within the bound, so that switching back to them is quick;
        what is left out costs only its mapped file, and is copied again when it is switched on. Memory that earlier
        adapters have left is given back to the system, rather than kept for the next.

        Args:
            size: bytes; 0 keeps only what acts; None, as it is at first, keeps all that ever acted.

        Raises:
            ConfigError: if it is negative.
        """
        if size is not None and size < 0:
            raise ConfigError(f"the memory of adapters must be 0 bytes or more, got {size}.")
        self._residents.limit = size
        self._turn(self._roster.live, self._roster.samples)
        if size is not None:
            PAGES.trim()
            WEIGHTS.trim()

    def follow(self, pipeline: Any) -> None:
        """Let schedules and turns among threads follow this pipeline's calls too; :func:`lorica.attach` does it."""
        self._calls.follow(pipeline)
        self._calls.pick_up(replace=not self.names)

    def follows(self, model: Any) -> bool:
        """Tell whether this pipeline's calls are followed."""
        return any(model is pipeline for pipeline in self._calls.pipelines)
