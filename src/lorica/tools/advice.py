"""Description of a file in words: what it is, what it is for and how to use it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lorica.adapters import KINDS
from lorica.models import FAMILIES
from lorica.tools.facts import Facts
from lorica.tools.quoting import quoted

# Methods that a sentence describes better than by their names.
METHODS: dict[str, str] = {
    "residual": "LoRA with a sparse residual",
    "full": "set of full differences",
    "set_weight": "set of whole weights",
    "norm": "set of changed norms",
    "bias": "set of changed biases",
}
# The network that a component is, or what it does, for people.
NETWORKS: dict[str, str] = {
    "unet": "the network that draws",
    "transformer": "the network that draws",
    "transformer_2": "the second network that draws",
    "prior": "the network that plans the picture",
    "decoder": "the network that draws",
    "text_encoder": "what words mean",
    "text_encoder_2": "what words mean",
    "text_encoder_3": "what words mean",
    "controlnet": "the base model into a control net",
}
NOT_RUN = frozenset({"controlnet"})  # components that no pipeline here has
TAGS_SHOWN, WORDS_SHOWN = 8, 6
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def describe(facts: Facts) -> list[str]:
    """Paragraphs: whether it fits a model, if that was asked; what the file is, what it is for, how to use it."""
    return [text for text in (_fit(facts), _what(facts), _what_for(facts), _how(facts)) if text]


def command(facts: Facts) -> str:
    """Command line that draws a picture with the file, or nothing if none can."""
    if facts.problem or not facts.modules or not _can_run(facts):
        return ""
    words = ["lorica", "generate", "--base", base_argument(facts), "--lora", facts.source, "--prompt", _prompt(facts)]
    return " ".join(word if word.startswith("YOUR_") else quoted(word) for word in words)


def base_argument(facts: Facts) -> str:
    """Argument for the base model: the published repository, or a placeholder."""
    return FAMILIES[facts.base.name].published.repository if facts.base.name else "YOUR_BASE_MODEL"


def size(count: int) -> str:
    """Number of bytes in a suitable unit."""
    unit, name = next(((unit, name) for unit, name in _UNITS if count >= unit), (1, "bytes"))
    return f"{count / unit:.3g} {name}"


def _fit(facts: Facts) -> str:
    fit, name = facts.fit, Path(facts.source).name
    if fit is None:
        return ""
    if fit.whole and not facts.problem:
        return f"{name} fits {fit.model}: all of its {_count(str(fit.modules), 'module')} have their place there."
    if fit.whole:
        return f"{name} cannot be used on {fit.model}: its names and sizes fit, but not its numbers."
    if not fit.fitting:
        return f"{name} does not fit {fit.model}: none of its {_count(str(fit.modules), 'module')} has a place there."
    if fit.fitting == fit.modules:
        keys = _count(str(len(fit.problems)), "key")
        return f"{name} does not fit {fit.model}: all of its modules do, but {keys} of the file cannot be used there."
    return f"{name} does not fit {fit.model}: {fit.fitting:,} of its {_count(str(fit.modules), 'module')} do."


def _what(facts: Facts) -> str:
    name = Path(facts.source).name
    base = "a base model that could not be told" if facts.base.title == "unknown" else facts.base.title
    kinds = _listed([METHODS.get(kind) or KINDS[kind].__name__ for kind in facts.methods])
    length = f", {size(facts.size)}" if facts.size is not None else ""
    if not facts.modules:
        kinds = "file of embeddings" if facts.embeddings else "file of which nothing could be read"
    made = f", made with {facts.trainer.title}" if facts.trainer.name else ""
    run = _run(facts.training.settings)
    return (
        f"{name} is {_article(kinds)} {kinds} for {base}{length}. It is in {facts.format} format{made}"
        f"{f', {run}' if run else ''}."
    )


def _run(settings: Mapping[str, str]) -> str:
    """Pictures and steps of the training, as far as the file names them."""
    pictures, steps = settings.get("pictures"), settings.get("steps")
    parts = [f"from {_count(pictures, 'picture')}" if pictures else "", f"in {_count(steps, 'step')}" if steps else ""]
    return " ".join(part for part in parts if part)


def _what_for(facts: Facts) -> str:
    told: list[str] = []
    if facts.training.settings.get("description"):
        told.append(f"Its author says: {facts.training.settings['description'].strip()}")
    if facts.components:
        networks = dict.fromkeys(NETWORKS.get(part.name, "a network of its own") for part in facts.components)
        names = _listed([part.name for part in facts.components])
        told.append(f"It changes {_listed(networks)} ({_count(str(facts.modules), 'module')} in {names}).")
    if facts.embeddings:
        told.append(f"It brings {_count(str(len(facts.embeddings)), 'new word')}: {', '.join(facts.embeddings)}.")
    tags = [tag for tag in facts.training.tags if tag not in facts.training.trigger_words][:TAGS_SHOWN]
    if tags:
        told.append(f"Its pictures were captioned, most often: {', '.join(tags)}.")
    return " ".join(told)


def _how(facts: Facts) -> str:
    if facts.problem or not (facts.modules or facts.embeddings):
        return ""
    if not _can_run(facts):
        return "It can be looked into, not run: its names are those of the original control net, which no pipeline has."
    words = [*facts.training.trigger_words[:WORDS_SHOWN], *facts.embeddings]
    hint = facts.training.settings.get("usage hint")
    asked = (
        f"Put {_listed([f'“{word}”' for word in words])} into the prompt."
        if words
        else ("The file names no trigger words: try it with an ordinary prompt.")
    )
    said = f" Its author says: {hint}" if hint else ""
    return f"{asked}{said} Begin with strength 1 and turn it down if it is too much."


def _can_run(facts: Facts) -> bool:
    return NOT_RUN.isdisjoint(part.name for part in facts.components)


def _prompt(facts: Facts) -> str:
    words = [*facts.training.trigger_words[:1], *list(facts.embeddings)[:1]]
    return ", ".join([*words, "..."]) if words else "..."


def _listed(words: Iterable[str]) -> str:
    """Words as a list in a sentence."""
    found: Sequence[str] = list(words)
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} and {found[-1]}" if found else "nothing"


def _count(number: str, thing: str) -> str:
    plural = "" if number == "1" else "s"
    return f"{int(number):,} {thing}{plural}" if number.isdecimal() else f"{number} {thing}{plural}"


def _article(word: str) -> str:
    return "an" if word[:1] in "AEIOU" else "a"
