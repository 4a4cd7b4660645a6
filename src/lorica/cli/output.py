"""Common parts of the verbs: exit codes, ``--json`` with the object that it prints, and silence for the libraries."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from lorica.errors import escaped

WRONG_INPUT = 2  # the request cannot be met as it is
FAILED = 1  # it could have been met, and went wrong
INTERRUPTED = 130  # the code of shells after Ctrl-C

Function = TypeVar("Function", bound=Callable[..., Any])


def json_option(function: Function) -> Function:
    """Add ``--json`` to a verb: one machine-readable object on standard output at the end."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")(function)


def print_json(facts: Mapping[str, object]) -> None:
    """Print one JSON object on one line; paths and the like become text."""
    click.echo(json.dumps(facts, default=str))


def show(text: str, *, err: bool = False) -> None:
    """Print a text, with escapes for what names and metadata may hold and a terminal must not get."""
    click.echo(escaped(text), err=err)


def quiet_libraries() -> None:
    """Turn off the progress bars and warnings of diffusers and transformers for this process; errors stay."""
    import diffusers.utils.logging
    import transformers.utils.logging

    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
