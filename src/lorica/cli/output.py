"""What verbs print for programs: ``--json`` and the one object that it asks for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])


def json_option(function: Function) -> Function:
    """Add ``--json`` to a verb: one machine-readable object on standard output at the end."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")(function)


def print_json(facts: Mapping[str, object]) -> None:
    """Print one JSON object on one line; paths and the like become text."""
    click.echo(json.dumps(facts, default=str))
