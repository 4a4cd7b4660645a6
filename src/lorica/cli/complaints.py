"""What the user reads when something goes wrong: one paragraph, and the exit code that goes with it."""

from __future__ import annotations

from dataclasses import dataclass

import click

from lorica.errors import LoRAError, MissingExtraError, TrainingError

WRONG_INPUT = 2  # what was asked cannot be done as asked
FAILED = 1  # it could have been done, and went wrong
INTERRUPTED = 130  # what shells report after Ctrl-C

_FAILURES = (TrainingError, MissingExtraError)  # every other LoRAError is about what was asked for


@dataclass(frozen=True, slots=True)
class Complaint:
    """A paragraph for standard error and an exit code."""

    text: str
    code: int


def complaint_about(error: BaseException) -> Complaint:
    """Return what to tell the user about an error, and the exit code: 2 for bad input, 1 for a failure."""
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return Complaint(_about_interrupt(error), INTERRUPTED)
    if isinstance(error, click.UsageError):
        return Complaint(_about_usage(error), WRONG_INPUT)
    if isinstance(error, click.ClickException):
        return Complaint(f"Error: {error.format_message()}", WRONG_INPUT)
    if isinstance(error, LoRAError):
        return Complaint(f"Error: {error}", FAILED if isinstance(error, _FAILURES) else WRONG_INPUT)
    return Complaint(f"Error: {type(error).__name__}: {error}\nRun it again with --traceback to see where.", FAILED)


def _about_interrupt(error: BaseException) -> str:
    """Say what the interrupted work says about itself; click wraps the interrupt in an Abort."""
    return str(error) or str(error.__cause__ or "") or "Interrupted."


def _about_usage(error: click.UsageError) -> str:
    """Name the command, what is wrong with its line, and where its options are listed."""
    command = error.ctx.command_path if error.ctx else "lorica"
    return f"Error: {error.format_message()} See `{command} --help`."
