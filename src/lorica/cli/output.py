"""What verbs print for programs: ``--json`` and the one object that it asks for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Function = TypeVar("Function", bound=Callable[..., Any])


def json_option(function: Function) -> Function:
    """Add ``--json`` to a verb: one machine-readable object on standard output at the end."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")(function)


def print_json(facts: DataclassInstance) -> None:
    """Print a dataclass as one JSON object; paths and the like become text."""
    click.echo(json.dumps(asdict(facts), default=str))
