"""Base model of a file, from the names and sizes of its modules alone: candidates, ranked, with the evidence."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from operator import itemgetter, le

from lorica.models import FAMILIES
from lorica.models.folding import Shape
from lorica.models.index import TEXT, Reaches, reaches_of, read_index, starred_all

ModuleShapes = Mapping[str, Mapping[str, Shape | None]]
_UNKNOWN = ("", "model")  # components whose kind a file does not say
_CROSS_ATTENTION = "_attn2_to_k"  # in a UNet, its input is the text
_UNETS = ("down_blocks_", "mid_block_", "up_blocks_", "input_blocks_", "middle_block_", "output_blocks_")
_EXAMPLES = 2
_NUMBERS = itemgetter(1)  # of a member of a group


@dataclass(frozen=True, slots=True)
class Candidate:
    """A family that a file may be for.

    Args:
        family: its name in ``FAMILIES``.
        fitting: number of the file's modules that it has, in their size.
        modules: number of the file's modules.
        reached: number of kinds of the file's modules that go to its last block, and no further.
        groups: the file's modules.
    """

    family: str
    fitting: int
    modules: int
    reached: int
    groups: Sequence[_ModuleGroup] = field(repr=False)

    @property
    def title(self) -> str:
        """Name of the family for people."""
        return FAMILIES[self.family].title

    @property
    def fits(self) -> bool:
        """Whether the family has every module of the file in its size."""
        return self.fitting == self.modules

    @property
    def evidence(self) -> tuple[str, ...]:
        """Evidence for and against it, as sentences, the weightiest first."""
        if self.fits:
            return self._summary(self.modules), *_marks(self.groups)
        every = ((group, reaches_of(group.name, text=_is_text(group))) for group in self.groups)
        named = {group: families[self.family] for group, families in every if self.family in families}
        misfits = (_misfit(group, reaches) for group, reaches in named.items() if not _has_all(group, reaches))
        return (self._summary(sum(map(len, named))), *_marks(self.groups), *islice(misfits, _EXAMPLES))

    def _summary(self, named: int) -> str:
        if self.fits:
            return f"all {self.modules} modules have the names and sizes of {self.title}'s."
        return (
            f"{self.fitting} of {self.modules} modules have the names and sizes of {self.title}'s; "
            f"{named - self.fitting} have another size there, and {self.modules - named} are none of its modules."
        )


@dataclass(frozen=True, eq=False)
class _ModuleGroup:
    """The modules of a file with one starred name and one size."""

    component: str
    name: str
    size: Shape | None
    members: Sequence[tuple[str, tuple[int, ...]]]  # the path as the file has it, and its numbers
    highest: tuple[int, ...]  # at each star

    def __len__(self) -> int:
        return len(self.members)

    def count_within(self, highest: tuple[int, ...]) -> int:
        """Number of members without a number above the highest."""
        if _within(self.highest, highest):
            return len(self.members)
        return sum(all(map(le, numbers, highest)) for _, numbers in self.members)


@dataclass(slots=True)
class _Tally:
    """Counts of a file's modules for one family."""

    fitting: int = 0
    reached: int = 0  # groups whose highest numbers are the family's


def detect(modules: ModuleShapes) -> list[Candidate]:
    """Families that a file may be for, the best fitting first; none if no name is known.

    Among families that a file fits alike, the first is the one whose last blocks the file reaches, then the one that
    has its components by name, then the smallest: nothing in a file that changes only the attention says whether its
    Flux was dev or schnell.

    Args:
        modules: component (``unet``, ``text_encoder_2``, ..., or ``model`` where the file does not say) to path to
            the shape of the weight that the file changes, or None where its tensors do not tell, or with -1 for a
            size that they do not tell. Paths are those of diffusers or of any spelling, dotted or flat, without
            prefixes such as ``lora_unet_``.
    """
    index, groups = read_index(), tuple(_groups(modules))
    total = sum(map(len, groups))
    tallies: dict[str, _Tally] = {}
    for group in groups:
        _count(group, tallies)

    def rank(family: str) -> tuple[int, int, int, int]:
        tally, counts = tallies[family], index.networks[family]
        return -tally.fitting, -tally.reached, len(modules.keys() - counts.keys()), sum(counts.values())

    ranked = ((family, tallies[family]) for family in sorted(tallies, key=rank))
    return [Candidate(family, tally.fitting, total, tally.reached, groups) for family, tally in ranked]


def _groups(modules: ModuleShapes) -> Iterator[_ModuleGroup]:
    for component, shapes in modules.items():
        members: defaultdict[tuple[str, Shape | None], list[tuple[str, tuple[int, ...]]]] = defaultdict(list)
        for path, shape, (name, numbers) in zip(shapes, shapes.values(), starred_all(shapes), strict=True):
            members[name, shape and shape[:2]].append((path, numbers))
        for (name, size), found in members.items():
            highest = map(max, zip(*map(_NUMBERS, found), strict=True))
            yield _ModuleGroup(component, name, size, found, tuple(highest))


def _count(group: _ModuleGroup, tallies: dict[str, _Tally]) -> None:
    """Count a group's modules in the tally of each family that has modules of its name."""
    families, same = _families_with(group.name, _is_text(group), group.size)
    if not families <= tallies.keys():  # also families in which no size fits: they are candidates by name
        tallies.update({family: _Tally() for family in families if family not in tallies})
    for family, reaches in same:
        if group.highest in reaches:  # the file goes to the last block of this family, and no further
            tallies[family].reached += 1
            tallies[family].fitting += len(group.members)
        else:
            tallies[family].fitting += max(map(group.count_within, reaches))


@lru_cache(maxsize=4096)
def _families_with(
    name: str, text: bool | None, size: Shape | None
) -> tuple[Set[str], Sequence[tuple[str, Sequence[tuple[int, ...]]]]]:
    """Families that have modules of a starred name, and, for those that have them in a size, how far these go."""
    families = reaches_of(name, text=text)
    same = ((family, _of_size(size, reaches)) for family, reaches in families.items())
    return families.keys(), [(family, reaches) for family, reaches in same if reaches]


def _is_text(group: _ModuleGroup) -> bool | None:
    """Whether a group is of a network that reads the prompt; None if the file does not say."""
    return None if group.component in _UNKNOWN else group.component.startswith(TEXT)


def _has_all(group: _ModuleGroup, reaches: Reaches) -> bool:
    return any(group.count_within(highest) == len(group) for highest in _of_size(group.size, reaches))


def _of_size(size: Shape | None, reaches: Reaches) -> Sequence[tuple[int, ...]]:
    """Highest numbers of the modules of a size; a negative number stands for a size that the file does not tell."""
    if size is not None and min(size, default=0) >= 0:
        return reaches.get(size, ())
    return [highest for theirs, known in reaches.items() if _may_be(size, theirs) for highest in known]


def _may_be(size: Shape | None, theirs: Shape) -> bool:
    if size is None:
        return True
    own = size if size[-1] >= 0 else size[: len(theirs)]  # a change of a bias may be a norm's, which has no inputs
    return len(own) == len(theirs) and all(one < 0 or one == other for one, other in zip(own, theirs, strict=True))


def _within(numbers: tuple[int, ...], highest: tuple[int, ...]) -> bool:
    return all(map(le, numbers, highest))


def _misfit(group: _ModuleGroup, reaches: Reaches) -> str:
    """Reason why not all of a group's modules are the family's: the size, or the number of a block."""
    deepest = max(group.members, key=lambda member: member[1])[0]
    same = _of_size(group.size, reaches)
    if same:
        return f"{deepest} goes beyond its blocks, whose highest numbers are {_joined(same[0], ', ')}."
    sizes = " or ".join(_joined(size, " x ") for size in reaches)
    return f"{deepest} is {_joined(group.size or (), ' x ')} in the file and {sizes} in it."


def _marks(groups: Sequence[_ModuleGroup]) -> Iterator[str]:
    """Facts that the file itself shows: the width of the text, or of the blocks, and the number of the last block."""
    denoiser = [group for group in groups if not group.component.startswith(TEXT)]
    yield from _width([(group, group.size[1]) for group in denoiser if group.size and len(group.size) == 2])
    lasts: dict[str, int] = {}
    for group in denoiser:
        head, star, _ = group.name.partition("_*_")
        if star:
            lasts[head] = max(lasts.get(head, 0), group.highest[0])
    if lasts:
        yield "the highest numbers of its blocks: " + ", ".join(f"{head} {last}" for head, last in lasts.items()) + "."


def _width(inputs: Sequence[tuple[_ModuleGroup, int]]) -> Iterator[str]:
    for group, width in inputs:
        if group.name.startswith(_UNETS) and group.name.endswith(_CROSS_ATTENTION):
            yield f"cross-attention width {width} ({group.members[0][0]})."
            return
    widths = Counter(width for group, width in inputs for _ in group.members)
    yield from (f"most modules take {width} inputs." for width, _ in widths.most_common(1))


def _joined(numbers: Sequence[int], between: str) -> str:
    return between.join(map(str, numbers))
