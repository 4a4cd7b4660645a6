"""Training of a file, as its metadata tells it: name, trigger words, tags, settings.

``ss_*`` is written by kohya's scripts and their descendants, ``modelspec.*`` is Stability's model specification,
``ot_*`` OneTrainer's, ``lorica.*`` our own. Nothing here fails: metadata that cannot be understood is noted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, cast

from lorica.tools.facts import Training

TITLES = ("modelspec.title", "ss_output_name")
TRIGGERS = ("modelspec.trigger_phrase", "trigger_word", "trigger_words", "activation text", "instance_prompt")
TAGS_KEPT = 100
LARGEST_COUNT = 1e15
_NOTHING = ("", "None", "null", "False", "0", "{}", "[]")
_REPEATS = "_"  # kohya's folders are named 10_word: the repeats of each picture, and the word for it


def _date(text: str) -> str:
    """Day of a time in seconds since 1970."""
    return datetime.fromtimestamp(float(text), tz=timezone.utc).date().isoformat()


def _rate(text: str) -> str:
    return f"{float(text):g}"


def _class_name(text: str) -> str:
    return text.partition("(")[0].rpartition(".")[2]


# The name of a setting, the keys that may hold it (the first that does is taken), and how its text is shown.
SETTINGS: tuple[tuple[str, tuple[str, ...], Callable[[str], str]], ...] = (
    ("author", ("modelspec.author",), str),
    ("description", ("modelspec.description", "ss_training_comment"), str),
    ("usage hint", ("modelspec.usage_hint",), str),
    ("license", ("modelspec.license",), str),
    ("tags of the model", ("modelspec.tags",), str),
    ("merged from", ("modelspec.merged_from",), str),
    ("base model file", ("ss_sd_model_name", "lorica.base_model", "base_model"), str),
    ("base model hash", ("ss_new_sd_model_hash", "ss_sd_model_hash"), str),
    ("trained on", ("ss_training_finished_at", "ss_training_started_at"), _date),
    ("date", ("modelspec.date",), str),
    ("pictures", ("ss_num_train_images",), str),
    ("regularisation pictures", ("ss_num_reg_images",), str),
    ("steps", ("ss_steps", "lorica.step", "ss_max_train_steps"), str),
    ("epochs", ("ss_epoch", "ss_num_epochs"), str),
    ("batch size", ("ss_total_batch_size", "ss_batch_size_per_device"), str),
    ("resolution", ("modelspec.resolution", "ss_resolution"), str),
    ("optimizer", ("ss_optimizer",), _class_name),
    ("learning rate", ("ss_learning_rate",), _rate),
    ("learning rate, denoiser", ("ss_unet_lr",), _rate),
    ("learning rate, text encoder", ("ss_text_encoder_lr",), _rate),
    ("schedule", ("ss_lr_scheduler",), str),
    ("network", ("ss_network_module",), str),
    ("network arguments", ("ss_network_args",), str),
    ("prediction", ("modelspec.prediction_type",), str),
    ("clip skip", ("ss_clip_skip",), str),
    ("min-SNR gamma", ("ss_min_snr_gamma",), str),
    ("noise offset", ("ss_noise_offset",), str),
    ("seed", ("ss_seed",), str),
)


def training_of(metadata: Mapping[str, str]) -> Training:
    """Training of a file, from its metadata."""
    reader = _MetadataReader(metadata)
    settings = dict(reader.settings())
    subsets = list(reader.subsets())
    tags = sum((subset.tags for subset in subsets), Counter[str]())
    pictures = sum(subset.pictures for subset in subsets)
    return Training(
        title=next((metadata[name] for name in TITLES if metadata.get(name)), None),
        trigger_words=tuple(_triggers(metadata, subsets, tags, pictures)),
        tags=dict(tags.most_common(TAGS_KEPT)),
        settings=settings,
        notes=tuple(reader.notes),
    )


@dataclass(slots=True)
class _Subset:
    """One folder of pictures: its name without the repeats, the number of pictures, and the tags of their captions."""

    word: str
    pictures: int = 0
    tags: Counter[str] = field(default_factory=Counter[str])


class _MetadataReader:
    """The metadata, and notes about the entries that could not be understood."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self._metadata = metadata
        self.notes: list[str] = []

    def settings(self) -> Iterator[tuple[str, str]]:
        for title, names, shown in SETTINGS:
            name = next((name for name in names if self._metadata.get(name, "") not in _NOTHING), None)
            if name is None:
                continue
            text = self._metadata[name]
            try:
                yield title, shown(text)
            except (ValueError, OverflowError, OSError):
                yield title, text

    def subsets(self) -> Iterator[_Subset]:
        """Folders of pictures, with the tags of their captions if the file has them."""
        counts = self._object("ss_tag_frequency")
        folders = self._object("ss_dataset_dirs")
        for name in dict.fromkeys((*counts, *folders)):
            head, _, word = name.partition(_REPEATS)
            subset = _Subset(word.strip() if head.isdecimal() else name.strip())
            subset.pictures = _number(_field(folders.get(name), "img_count"))
            tags = cast("Mapping[str, Any]", counts[name]) if isinstance(counts.get(name), Mapping) else {}
            for tag, count in tags.items():
                subset.tags[tag.strip()] += _number(count)
            yield subset

    def _object(self, name: str) -> dict[str, Any]:
        text = self._metadata.get(name, "")
        if text in _NOTHING:
            return {}
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            self.notes.append(f"{name} is not JSON ({error}).")
            return {}
        if not isinstance(value, dict):
            self.notes.append(f"{name} is a JSON {type(value).__name__}; expected an object.")
            return {}
        return cast("dict[str, Any]", value)


def _triggers(metadata: Mapping[str, str], subsets: list[_Subset], tags: Counter[str], pictures: int) -> Iterator[str]:
    """Words for the prompt: those that the file names, or else the tags of every caption.

    Where there were no captions, kohya's scripts use the word in the folder's name as the caption.
    """
    said = [metadata[name].strip() for name in TRIGGERS if metadata.get(name, "").strip()]
    if said:
        yield from dict.fromkeys(said)
    elif tags:
        yield from (tag for tag, count in tags.items() if tag and pictures and count >= pictures)
    else:
        yield from dict.fromkeys(subset.word for subset in subsets if subset.word)


def _field(value: Any, name: str) -> Any:
    return cast("Mapping[str, Any]", value).get(name) if isinstance(value, Mapping) else None


def _number(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and abs(value) < LARGEST_COUNT else 0  # NaN is not less
