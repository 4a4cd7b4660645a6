"""What stands behind the adapters of one live model: who is loaded, where each is held, how a change is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lorica.runtime.banks import Banks, KeptBanks
from lorica.runtime.dials import Dials
from lorica.runtime.fusing.fuse import Change, Fused, KeptFused
from lorica.runtime.fusing.originals import Backup
from lorica.runtime.model.layout import Layout
from lorica.runtime.model.owner import check_owned, mark
from lorica.runtime.model.placed import Placed
from lorica.runtime.model.plan import Place
from lorica.runtime.model.projections import Projections
from lorica.runtime.model.textual_inversion import Vocabulary, Words
from lorica.runtime.pipeline.batch import halves_of
from lorica.runtime.pipeline.calls import Calls, KeptSchedules
from lorica.runtime.pipeline.forward_checks import Watch
from lorica.runtime.pipeline.threads import Turns
from lorica.runtime.regions.regions import Bounds
from lorica.runtime.regions.token_grids import batch_of
from lorica.runtime.residents import Residents
from lorica.runtime.roster import Resolved, Roster, Samples
from lorica.runtime.strengths import Strength


@dataclass(frozen=True, slots=True)
class Kept:
    """What an operation may change, as it was before."""

    roster: Roster
    residents: tuple[dict[str, None], int | None]
    fused: KeptFused
    banks: KeptBanks
    schedules: KeptSchedules
    masks: tuple[Mapping[str, Tensor], float]
    words: dict[str, Words]
    components: dict[str, nn.Module]
    enabled: bool


class Engine:
    """What the operations on a model share; the two ways of changing it are to turn strengths and to move adapters."""

    def __init__(self, components: Mapping[str, nn.Module]) -> None:
        self.components = dict(components)
        self._layout = Layout(self.components)
        self._projections = Projections(self.components)
        self._looked_at: object = None
        self._placed = Placed(self.components)
        self._roster = Roster()
        self._fused = Fused(self._placed.find, self.components)
        self._banks = Banks(self._placed.find, self._fused.originals.get)
        self._residents = Residents(self._banks)
        self._enabled = True
        self._turns = Turns()
        self._dials = Dials(self._roster, self._turn)
        self._calls = Calls(self._turns, self.components, self._dials, self._check_layers)
        self._vocabulary = Vocabulary(self.components, lambda: self._calls.pipelines)
        self.watch = Watch(self._turns, self._check_forward, self._halves)
        self.bounds = Bounds(lambda: self._banks.acting)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Undo what is done within, wherever an error comes; there is nothing else of the kind within."""
        kept = self._keep()
        try:
            yield
        except BaseException:
            self._restore(kept)
            raise

    def _keep(self) -> Kept:
        """Return all that an operation may change."""
        parts = self._roster.keep(), self._residents.keep(), self._fused.keep(), self._banks.keep(), self._calls.keep()
        masks = (self.bounds.masks, self.bounds.elsewhere)
        return Kept(*parts, masks, dict(self._vocabulary.words), dict(self.components), self._enabled)

    def _restore(self, kept: Kept) -> None:
        """Let all be as it was, from the weights to what stands around forwards."""
        self.components.clear()
        self.components.update(kept.components)
        self._enabled = kept.enabled
        self._fused.restore(kept.fused)
        self._banks.restore(kept.banks)
        self._roster.restore(kept.roster)
        self._residents.restore(kept.residents)
        self._vocabulary.restore(kept.words)
        self.bounds.set(*kept.masks)
        self.watch.end()
        self._calls.listen(on=False)
        self._mark_components()
        self._calls.restore(kept.schedules)

    def _move(
        self,
        in_weights: dict[str, Strength],
        wanted: dict[Place, dict[str, Change]],
        *,
        backup: Backup = "cpu",
        gone: Sequence[str] = (),
        bare: bool = False,
    ) -> None:
        """Move adapters between banks and weights, and off the model; ``bare`` leaves no bank, reserved or not."""
        self._check_rows()
        roster, away = self._roster, {*in_weights, *gone}
        live = {name: value for name, value in roster.live.items() if name not in away}
        samples = roster.samples and roster.samples.without(away)
        self._fused.put(wanted, backup)
        if bare:
            self._banks.commit(self._banks.prepare_nothing(), [{}])
        else:
            rows = self._rows(live, samples)
            self._residents.show(roster.plans, rows, gone=away, guidance=guidance_of(samples))
        self._fused.settle(wanted, backup)
        roster.in_weights, roster.live, roster.samples = in_weights, live, samples
        for name in gone:
            roster.drop(name)
            self._vocabulary.remove(name)
            self.bounds.forget(name)
            self._calls.forget(name)
        self._mark_components()

    def _turn(self, live: Mapping[str, tuple[Strength, Resolved]], samples: Samples | None = None) -> None:
        """Make exactly these adapters live, for all samples alike or for each its own."""
        self._residents.show(self._roster.plans, self._rows(live, samples), guidance=guidance_of(samples))
        self._roster.live, self._roster.samples = dict(live), samples
        self._look_around()

    def _switch(self, *, on: bool) -> None:
        self._enabled = on
        self._turn(self._roster.live, self._roster.samples)

    def _rows(
        self, live: Mapping[str, tuple[Strength, Resolved]], samples: Samples | None = None
    ) -> list[dict[str, Resolved]]:
        """Return what the banks write: the strength of each live adapter in each layer, a row for each sample."""
        sets = samples.sets if samples else (live,)
        return [{name: values for name, (_, values) in one.items()} if self._enabled else {} for one in sets]

    def _mark_components(self) -> None:
        """Let the components know whose they are as long as any adapter is loaded."""
        for part in self.components.values():
            mark(part, self, owned=bool(self._roster.adapters or self._banks.reserved))
        self._calls.listen(on=bool(self._roster.adapters))
        self._looked_at = None  # what is fused may be elsewhere
        self._look_around()

    def _look_around(self) -> None:
        """Stand around forwards as long as banks hold anything: what is fused costs nothing."""
        if self._looked_at is not self._banks.plans:
            self._looked_at = self._banks.plans
            places = {*self._banks.places, *self._fused.changes}
            self._placed.hold(places)
            self._projections.watch(places)
        if self._banks.plans or self._banks.reserved:
            self.watch.begin(list(self.components.values()), self._banks.plans)
        else:
            self.watch.end()
        self.bounds.stand(self.components, self._banks)

    def _check_live(self) -> None:
        """Raise if adapters would not act where they were put, or the model is not all this one's."""
        for part in self.components.values():
            check_owned(part, self)
        self._calls.check_components()
        self._check_rows()

    def _check_rows(self) -> None:
        """Raise if the model calls other layers than those that adapters were put on."""
        self._projections.check()

    def _check_layers(self) -> None:
        """Raise if the model no longer has the layers that adapters were put on, or does not call them."""
        self._check_rows()
        self._placed.check()

    def _halves(self, component: nn.Module, args: Any, kwargs: Any) -> int | None:
        """Return how often the list of samples stands in the batch of a forward, if there is one and that tells."""
        samples = self._roster.samples
        batch = None if samples is None else batch_of(component, args, kwargs)
        return None if samples is None or batch is None else halves_of(len(samples.sets), batch, samples.guidance)

    def _check_forward(self, component: nn.Module) -> None:
        """Raise if adapters would not act in a forward outside of the pipeline calls that are followed."""
        self._check_layers()
        self._calls.check_followed(component)


def guidance_of(samples: Samples | None) -> int | None:
    """Return how often the list of samples stands in a batch; None if that is not known."""
    return samples.guidance if samples else None
