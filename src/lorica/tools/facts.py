"""What is known of an adapter file, as one value that can be printed, compared and written as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["right", "wrong", "not stored", "not checked"]


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that a file says or shows of itself, and what it is concluded from.

    Args:
        name: the short name of what it is, such as ``sdxl``; None if nothing is known.
        title: what people call it.
        evidence: what speaks for it, a sentence each; also what speaks against it.
    """

    name: str | None
    title: str
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a component: how many modules are changed in it, and by how much.

    Args:
        name: the module path of the block.
        modules: how many modules are changed.
        norm: the length (Frobenius) of all their changes together; None if it was not measured.
    """

    name: str
    modules: int
    norm: float | None = None


@dataclass(frozen=True, slots=True)
class Component:
    """What a file changes in one network.

    Args:
        name: the component (``unet``, ``text_encoder``, ...).
        modules: how many modules are changed.
        parts: kind of module (``cross-attention``, ``convolution``, ...) to their number.
        blocks: the blocks in the order in which data goes through them.
        norm: the length of all changes together; None if it was not measured.
        unmeasured: modules without a norm, because the change depends on the base weight.
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
        name: what it is called.
        value: what it is, if it was computed.
        stored: what the file says it is.
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
    """What the file says of its training. Everything is as the trainer wrote it; nothing was checked.

    Args:
        title: the name that was given to it.
        trigger_words: what has to stand in the prompt.
        tags: the words of the captions and how often each was seen, the most frequent first.
        settings: steps, rates and the like, name to value, in the order of reading.
        notes: metadata that could not be understood, and why.
    """

    title: str | None = None
    trigger_words: tuple[str, ...] = ()
    tags: Mapping[str, int] = field(default_factory=dict[str, int])
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fit:
    """How well a file fits one base model.

    Args:
        model: what was asked about.
        modules: modules that the file changes.
        fitting: those of them that the model has, in the same size.
        problems: key or module to what is wrong with it.
    """

    model: str
    modules: int
    fitting: int
    problems: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Facts:
    """What :func:`lorica.inspect` found out.

    Args:
        source: the file.
        size: its length in bytes; None for a state dict.
        format: the format that it is in.
        base: the base model that it is for.
        trainer: the program that made it.
        methods: method (``lora``, ``loha``, ...) to the number of modules.
        dtypes: dtype to the number of tensors.
        parameters: how many numbers it holds.
        ranks: rank to the number of modules.
        alphas: alpha to the number of modules.
        components: what it changes, network by network.
        embeddings: token to component to the shape of its vectors.
        unused: key to the reason why nothing can be made of it.
        problem: why the file cannot be used as it is; None if it can.
        training: what the metadata says.
        metadata: the metadata itself.
        hashes: the hashes of the file.
        fit: how well it fits the model that was asked about; None if none was.
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
        """How many modules the file changes."""
        return sum(component.modules for component in self.components)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain dictionaries and lists, for JSON."""
        return asdict(self)
