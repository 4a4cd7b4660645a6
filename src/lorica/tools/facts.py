"""Facts about an adapter file, as one value that can be printed, compared and written as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lorica.notebook import table

Verdict = Literal["right", "wrong", "not stored", "not checked"]


@dataclass(frozen=True, slots=True)
class Claim:
    """A conclusion about a file, with its evidence.

    Args:
        name: short name of what was concluded, such as ``sdxl``; None if nothing is known.
        title: its name for people.
        evidence: sentences that speak for it, or against it.
    """

    name: str | None
    title: str
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """Changes in one block of a component.

    Args:
        name: the module path of the block.
        modules: number of modules that are changed.
        norm: Frobenius norm of all their changes together; None if it was not measured.
    """

    name: str
    modules: int
    norm: float | None = None


@dataclass(frozen=True, slots=True)
class Component:
    """Changes in one network.

    Args:
        name: the component (``unet``, ``text_encoder``, ...).
        modules: number of modules that are changed.
        parts: kind of module (``cross-attention``, ``convolution``, ...) to their number.
        blocks: the blocks, from the input to the output.
        norm: norm of all changes together; None if it was not measured.
        unmeasured: number of modules without a norm, because their change depends on the base weight.
    """

    name: str
    modules: int
    parts: Mapping[str, int]
    blocks: tuple[Block, ...]
    norm: float | None = None
    unmeasured: int = 0


@dataclass(frozen=True, slots=True)
class Hash:
    """A hash of the file.

    Args:
        name: its name.
        value: the computed value, if it was computed.
        stored: the value that the file states.
        verdict: whether the two agree.
        note: what it is used for, or why it was not checked.
    """

    name: str
    value: str | None
    stored: str | None
    verdict: Verdict
    note: str = ""


@dataclass(frozen=True, slots=True)
class Training:
    """Training of a file, as its trainer described it in the metadata; nothing of it is checked.

    Args:
        title: the name that was given to it.
        trigger_words: words for the prompt.
        tags: the tags of the captions with their counts, the most frequent first.
        settings: steps, rates and the like, name to value, in reading order.
        notes: metadata that could not be understood, and why.
    """

    title: str | None = None
    trigger_words: tuple[str, ...] = ()
    tags: Mapping[str, int] = field(default_factory=dict[str, int])
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fit:
    """Fit of a file to one base model.

    Args:
        model: the base model.
        modules: number of modules that the file changes.
        fitting: number of those that the model has, in the same size.
        problems: key or module to what is wrong with it.
    """

    model: str
    modules: int
    fitting: int
    problems: Mapping[str, str]

    @property
    def whole(self) -> bool:
        """Whether all of the file fits."""
        return self.fitting == self.modules and not self.problems


@dataclass(frozen=True, slots=True)
class Facts:
    """Result of :func:`lorica.inspect`.

    Args:
        source: the file.
        size: its length in bytes; None for a state dict.
        format: the format that it is in.
        base: the base model that it is for.
        trainer: the program that made it.
        methods: method (``lora``, ``loha``, ...) to the number of modules.
        dtypes: dtype to the number of tensors.
        parameters: number of parameters.
        ranks: rank to the number of modules.
        alphas: alpha to the number of modules.
        components: its changes, network by network.
        embeddings: token to component to the shape of its vectors.
        unused: key to the reason why it has no use.
        problem: why the file cannot be used as it is; None if it can.
        training: what the metadata says of the training.
        metadata: the metadata itself.
        hashes: the hashes of the file.
        fit: its fit to the model that was asked about; None if none was.
    """

    source: str
    size: int | None
    format: str
    base: Claim
    trainer: Claim
    methods: Mapping[str, int]
    dtypes: Mapping[str, int]
    parameters: int
    ranks: Mapping[int, int]
    alphas: Mapping[float, int]
    components: tuple[Component, ...]
    embeddings: Mapping[str, Mapping[str, tuple[int, ...]]]
    unused: Mapping[str, str]
    problem: str | None
    training: Training
    metadata: Mapping[str, str]
    hashes: tuple[Hash, ...] = ()
    fit: Fit | None = None

    @property
    def modules(self) -> int:
        """Number of modules that the file changes."""
        return sum(component.modules for component in self.components)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain dictionaries and lists, for JSON."""
        fit = {**asdict(self.fit), "whole": self.fit.whole} if self.fit else None
        return {**asdict(self), "fit": fit}

    def _repr_html_(self) -> str:
        """Tables for notebooks: the file, and what it changes."""
        told = {
            "base model": self.base.title,
            "format": self.format,
            "made with": self.trainer.title,
            "methods": ", ".join(f"{kind} ({count} modules)" for kind, count in self.methods.items()),
            "rank": ", ".join(map(str, self.ranks)),
            "alpha": ", ".join(f"{alpha:g}" for alpha in self.alphas),
            "words for the prompt": ", ".join((*self.training.trigger_words, *self.embeddings)),
            f"fits {self.fit.model}" if self.fit else "": _share(self.fit),
            "problem": self.problem or "",
            **self.training.settings,
        }
        rows = [(name, text) for name, text in told.items() if name and text]
        changes = [
            (part.name, block.name, block.modules, "" if block.norm is None else f"{block.norm:.3g}")
            for part in self.components
            for block in part.blocks
        ]
        return table((), rows, self.source) + table(("component", "block", "modules", "change"), changes)


def _share(fit: Fit | None) -> str:
    return f"{fit.fitting} of {fit.modules} modules" if fit else ""


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """Facts of the adapter files in a folder.

    Args:
        folder: the folder.
        files: the facts of every file that could be read.
        broken: path of every other file to the reason.
    """

    folder: str
    files: tuple[Facts, ...]
    broken: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain dictionaries and lists, for JSON."""
        return asdict(self)
