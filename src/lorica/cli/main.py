r"""Entry point ``lorica``: finds the verb, runs it, and turns errors into one paragraph and an exit code.

A verb is a file ``cli/<verb>.py`` that holds ``command``, a :class:`click.Command`, and one line in ``VERBS``.
The file is imported only when its verb is called, so it may import at the top anything but torch and libraries that
import torch: those belong inside the callback, or ``lorica VERB --help`` takes seconds. A callback returns
None, or the exit code. The help text is its docstring; a paragraph that begins with a line ``\b`` keeps its lines.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

import click

from lorica.cli.output import FAILED, INTERRUPTED, WRONG_INPUT, show
from lorica.errors import LoRAError, MissingExtraError, TrainingError, UnknownNameError

VERBS: dict[str, str] = {
    "quickstart": "Train a LoRA on bundled pictures and show what it does.",
    "prepare": "Check a folder of pictures and captions before training.",
    "train": "Train a LoRA on your own pictures.",
    "cache": "Show what the encoded pictures of all runs take, and bound it.",
    "generate": "Make pictures from prompts, with any number of LoRAs.",
    "inspect": "Say what an adapter file is, what it is for, and how to use it.",
    "convert": "Write an adapter file in another format.",
    "doctor": "Say what is installed, what is missing, and how to get it.",
}


class Verbs(click.Group):
    """Group of all verbs: the names are known at once, the files are imported one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Verbs in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Command of a verb, whose file is imported for it; None if there is no such verb."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"lorica.cli.{cmd_name}").command
        if all(parameter.name != "traceback" for parameter in command.params):
            command.params.append(traceback_option())
        command.help = (command.help or "").replace(r"\b", "\b")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Command of the arguments; an unknown verb is an error that names the nearest one."""
        if args[0] not in VERBS and not args[0].startswith("-"):
            raise UnknownNameError.choose("command", args[0], VERBS)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs with their summaries, without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


def underscored(token: str) -> str:
    """Option with ``_`` for ``-``: both spellings are the same option, for every verb."""
    return token.replace("-", "_")


def traceback_option() -> click.Option:
    """Option that every verb takes; :func:`run` looks for it before anything is parsed."""
    return click.Option(["--traceback"], is_flag=True, expose_value=False, help="Show the full traceback of an error.")


@click.command(
    cls=Verbs,
    name="lorica",
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": underscored},
    epilog="`lorica COMMAND --help` explains a command.",
)
@click.version_option(package_name="lorica")
def program() -> None:
    """Train, load, run, combine and explain low-rank adapters (LoRA) for diffusion models."""


program.params.append(traceback_option())


def run(arguments: Sequence[str]) -> int:
    """Run one command line, print its error, if any, to standard error, and return the exit code."""
    try:
        result = program.main(args=list(arguments or ["--help"]), prog_name="lorica", standalone_mode=False)
    except (KeyboardInterrupt, Exception) as error:  # noqa: BLE001  # the edge: the user gets a paragraph
        if "--traceback" in arguments:
            traceback.print_exc()
        show(_message(error), err=True)
        return _exit_code(error)
    return result if isinstance(result, int) else 0


def _message(error: BaseException) -> str:
    if isinstance(error, (KeyboardInterrupt, click.Abort)):  # click wraps the interrupt in an Abort
        return str(error) or str(error.__cause__ or "") or "Interrupted."
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "lorica"
        return f"Error: {error.format_message()} See `{command} --help`."
    if isinstance(error, click.ClickException):
        return f"Error: {error.format_message()}"
    if isinstance(error, LoRAError):
        return f"Error: {error}"
    return f"Error: {type(error).__name__}: {error}\nRun it again with --traceback to see where."


def _exit_code(error: BaseException) -> int:
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return INTERRUPTED
    if isinstance(error, (TrainingError, MissingExtraError)):  # all other errors of ours are about the input
        return FAILED
    return WRONG_INPUT if isinstance(error, (click.ClickException, LoRAError)) else FAILED


def main() -> None:
    """Run the command line of this process and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a console in another encoding than UTF-8 gets escapes, not a crash
            stream.reconfigure(errors="backslashreplace")
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # Pillow, on pictures that are large but read
    sys.exit(run(sys.argv[1:]))
