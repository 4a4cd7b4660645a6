"""Command-line options from a settings model: one per field. The model validates, so there is one set of rules."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import click
from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo

from lorica.errors import ConfigError

_METAVARS: dict[Any, str] = {int: "INTEGER", float: "NUMBER", Path: "PATH"}


def options_of(model: type[BaseModel]) -> list[click.Parameter]:
    """One option per field, in the model's order. None is required: defaults are left to the model."""
    return [_option(name, field) for name, field in model.model_fields.items()]


def hidden_options(values: Iterable[str], switches: Iterable[str], flags: Collection[str]) -> list[click.Parameter]:
    """Options that are understood and not listed: ``values`` and ``switches``, of which ``flags`` take no value."""
    return [
        click.Option([f"--{name}"], is_flag=name in flags, default=None, hidden=True, expose_value=True)
        for name in (*values, *switches)
    ]


def topics_of(model: type[BaseModel]) -> dict[str, list[str]]:
    """Names of settings by topic: each base class is one, titled by its docstring."""
    bases = [base for base in reversed(model.__mro__) if issubclass(base, BaseModel) and base is not model]
    return {
        (base.__doc__ or "").strip().splitlines()[0].rstrip("."): list(base.model_fields)
        for base in bases
        if base.model_fields
    }


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values that were given on the command line."""
    return {name: value for name, value in values.items() if value is not None and value != ()}


def canonical(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values under the names of the fields: dashes become underscores, other spellings the first one."""
    names = {alias: name for name, field in model.model_fields.items() for alias in _spellings(name, field)}
    plain = ((name.replace("-", "_"), value) for name, value in values.items())
    return {names.get(name, name): value for name, value in plain}


def settings(pairs: Iterable[str]) -> dict[str, Any]:
    """Values of ``name=value`` pairs: as JSON (``8``, ``true``, ``["all"]``), or as plain text where it is none.

    Raises:
        ConfigError: if a pair has no ``=``.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--set takes name=value, such as --set rank=8, got {pair!r}.")
        found[name.strip()] = _value(value.strip())
    return found


def _value(text: str) -> Any:
    """Number, switch or list that the text spells, or the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _option(name: str, field: FieldInfo) -> click.Option:
    """Option of one field, with every spelling of its name."""
    spellings = [f"--{spelling}" for spelling in _spellings(name, field)]
    text = f"{field.description or ''}{_default(field)}"
    if field.annotation is bool:
        return click.Option([f"{on}/--no_{on[2:]}" for on in spellings], default=None, help=text)
    many = get_origin(field.annotation) is tuple
    return click.Option([name, *spellings], multiple=many, default=None, metavar=_metavar(field.annotation), help=text)


def _spellings(name: str, field: FieldInfo) -> list[str]:
    """The field's name and its other spellings."""
    alias = field.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return list(dict.fromkeys([name, *(choice for choice in choices if isinstance(choice, str))]))


def _default(field: FieldInfo) -> str:
    """Default for the help text, unless it is None or off."""
    if field.default is None or field.default is False or field.default == ():
        return ""
    shown = " ".join(field.default) if isinstance(field.default, tuple) else field.default
    return f"  [{shown}]"


def _metavar(annotation: Any) -> str:
    """Placeholder for the option's value."""
    if get_origin(annotation) is Literal:
        return f"[{'|'.join(str(value) for value in get_args(annotation))}]"
    if get_origin(annotation) in (Union, UnionType):
        return "|".join(_metavar(part) for part in get_args(annotation) if part is not type(None))
    return _METAVARS.get(annotation, "TEXT")
