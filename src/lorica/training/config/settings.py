"""Frozen settings that refuse unknown names with a readable error, and the TOML files that they are read from."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from lorica.errors import ConfigError, FileError
from lorica.printing import is_path, is_text, printable, read_text
from lorica.training.config.refused import REFUSED

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Topic = TypeVar("Topic", bound="StrictSettings")
# Settings that are paths or something else, such as a name on the Hub: only a path begins with ~.
MAYBE_PATHS = frozenset({"pretrained_model_name_or_path", "dataset_name", "resume_from_checkpoint", "initial_adapter"})
MOST_NESTED = 20  # keys in keys of a run file; its reader takes quadratic time on thousands of them
_NESTED = re.compile(rf"(?<![\w-])(?:[\w-]+[ \t]*\.[ \t]*){{{MOST_NESTED}}}")
_QUOTED = re.compile(r"\"[^\"\n]*\"|'[^'\n]*'")
MOST = 10**9  # of anything that is counted
SHOWN = 80  # characters of a wrong value in a message


class StrictSettings(BaseModel):
    """Frozen settings. Unknown names are refused with the nearest known one.

    Raises:
        ConfigError: for an unknown name, a value out of range, or settings that contradict each other.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="after")
    @classmethod
    def _bound_counts(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse counts that are slips: they would train for ever, or ask for all memory."""
        if isinstance(value, int) and value > MOST and info.field_name != "seed":
            raise ValueError(f"Input should be at most {MOST:,}")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _expand_paths(cls, value: Any, info: ValidationInfo) -> Any:
        """Replace ``~`` by the home folder, once for all that reads the settings; refuse what no file can record."""
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, (str, Path)) and not is_text(str(one)):
                raise ValueError(f"{printable(one)} is not UTF-8, and could not be recorded; rename it")
        maybe = isinstance(value, str) and info.field_name in MAYBE_PATHS
        if not isinstance(value, Path) and not (maybe and isinstance(value, str)):
            return value
        try:
            found = Path(value).expanduser() if str(value).startswith("~") else value
        except RuntimeError:
            raise ValueError(f"there is no home folder for {printable(value)}; write the whole path") from None
        if not is_path(found):
            raise ValueError(f"{printable(found)} can be no path: it is too long, or holds a zero byte")
        return str(found) if maybe else found

    if not TYPE_CHECKING:  # the checker keeps the typed signature that pydantic makes

        def __init__(self, **values: Any) -> None:
            refuse_unknown(values, type(self))
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise ConfigError(readable(error)) from None

    def part(self, topic: type[Topic]) -> Topic:
        """The settings of one topic, a base class, as a value of their own; they were validated with the others."""
        return topic.model_construct(**{name: getattr(self, name) for name in topic.model_fields})


def refuse_unknown(values: Iterable[str], model: type[BaseModel]) -> None:
    """Raise for names that are no setting, are not offered, or name one setting twice.

    Raises:
        ConfigError: with the nearest known name.
    """
    given, others = set(values), second_names(model)
    known = [*model.model_fields, *others]
    for name in model.model_fields:
        several = [spelling for spelling in known if spelling in given and others.get(spelling, spelling) == name]
        if len(several) > 1:
            raise ConfigError(f"{several[0]} and {several[1]} are two names of one setting: give one of them.")
    for name in given:
        if name in REFUSED:
            raise ConfigError(f"{name} is not offered: {REFUSED[name]}")
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(sorted(known))}."
            raise ConfigError(f"unknown setting {name!r}.{hint}")


def second_names(model: type[BaseModel]) -> dict[str, str]:
    """Aliases of settings, each with the name of its field."""
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        alias = field.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [] if alias is None else [alias]
        found |= {str(second): name for second in choices if second != name}
    return found


def readable(error: ValidationError) -> str:
    """Everything that is wrong with settings, in one line."""
    lines: list[str] = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        lines.append(f"{name}: {message}, got {_shortened(problem['input'])}" if name else message)
    return "; ".join(lines) + "."


def _shortened(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # more digits than Python prints
        text = "a number of too many digits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def read_toml(path: Path) -> dict[str, Any]:
    """Values of a run file.

    Raises:
        FileError: if the file cannot be read.
        ConfigError: if it is not TOML, naming the line.
    """
    try:
        text = read_text(path)
    except OSError as error:
        raise FileError(f"cannot read the run file {printable(path)}: {error}.") from error
    for number, line in enumerate(text.splitlines(), 1):
        if _NESTED.search(_QUOTED.sub("q", line)):
            raise ConfigError(f"{path}, line {number} has more than {MOST_NESTED} keys in keys; settings have one.")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of too many digits
        raise ConfigError(f"{path} is not valid TOML: {printable(error)}.") from error
