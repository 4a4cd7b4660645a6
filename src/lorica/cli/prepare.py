"""``lorica prepare``: what is wrong with a folder of pictures, before a night is spent on it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lorica.cli.complaints import WRONG_INPUT
from lorica.cli.output import json_option, print_json
from lorica.errors import ConfigError, DataError

if TYPE_CHECKING:
    from lorica.data.caption_length import CaptionMeasure
    from lorica.data.findings import Severity
    from lorica.data.prepare import Limits, Progress, Survey

REPORT = "report.html"
METADATA = "metadata.jsonl"
RESOLUTION = 512
EXAMPLES = 3  # files named of each problem
COLOURS: dict[Severity, str] = {"stops": "red", "harms": "yellow", "note": "blue"}


@click.command(context_settings={"max_content_width": 110})
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--resolution", type=int, help=f"Side to train at; the model's own, or {RESOLUTION}, if unset.")
@click.option(
    "--pretrained_model_name_or_path", metavar="MODEL", help="Count captions in tokens of this base model, not words."
)
@click.option("--caption_column", default="text", show_default=True, help="Field of metadata.jsonl with the caption.")
@click.option("--instance_prompt", metavar="TEXT", help="One caption for every picture; others are not read.")
@click.option("--max_aspect_ratio", type=float, default=3.0, show_default=True, help="Longer side over the shorter.")
@click.option(
    "--duplicate_distance",
    type=int,
    metavar="BITS",
    help="Of 144 that pictures alike may differ in; 0: all equal.  [12]",
)
@click.option("--report", type=click.Path(path_type=Path), help=f"Where the page is written.  [DIR/{REPORT}]")
@click.option("--no_report", is_flag=True, help="Write no page.")
@click.option("--write_metadata", is_flag=True, help="Write metadata.jsonl from the .txt files beside the pictures.")
@click.option("--overwrite", is_flag=True, help="Replace a metadata.jsonl, or a page that is not such a report.")
@json_option
def command(*, as_json: bool, **options: Any) -> int:
    r"""Check a folder of pictures and captions, and write a page that shows every problem.

    Finds pictures that cannot be read, copies and lookalikes, pictures that are too small or too long, captions that
    are missing, empty or too long, and entries that belong to no picture. Your files are not changed.

    The exit code is 2 if there is nothing to train on.

    \b
    lorica prepare pictures
    lorica prepare pictures --write_metadata
    """
    request = Request(**options)
    request.refuse_to_overwrite()
    survey = _examine(request)
    if not as_json:
        _print_summary(survey)
    facts = facts_of(survey)
    facts.update(_write(survey, request))
    if as_json:
        print_json(facts)
    else:
        click.echo("\n".join(_closing(survey, facts)))
    return 0 if survey.usable else WRONG_INPUT


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the command line asks for; the names are those of its options.

    Raises:
        ConfigError: for options that contradict each other.
    """

    folder: Path
    resolution: int | None
    pretrained_model_name_or_path: str | None
    caption_column: str
    instance_prompt: str | None
    max_aspect_ratio: float
    duplicate_distance: int | None
    report: Path | None
    no_report: bool
    write_metadata: bool
    overwrite: bool

    def __post_init__(self) -> None:
        if self.report and self.no_report:
            raise ConfigError("--report and --no_report contradict each other: leave one out.")
        if self.write_metadata and self.instance_prompt is not None:
            raise ConfigError("--write_metadata takes the captions of .txt files: leave --instance_prompt out.")

    @property
    def page(self) -> Path | None:
        """Where the report is written, None if nowhere."""
        return None if self.no_report else self.report or self.folder / REPORT

    def refuse_to_overwrite(self) -> None:
        """Raise before any work if a file is in the way of what is to be written.

        Raises:
            FileError: if there is one.
        """
        from lorica.data.metadata import refuse_to_overwrite  # brings torch along
        from lorica.data.report_page import refuse_foreign

        if self.page:
            refuse_foreign(self.page, self.overwrite)
        if self.write_metadata:
            refuse_to_overwrite(self.folder / METADATA, self.overwrite)


def facts_of(survey: Survey) -> dict[str, object]:
    """Return what ``--json`` prints, without the files that were written."""
    from lorica.data.findings import by_problem

    return {
        "folder": str(survey.folder),
        "usable": survey.usable,
        "ready": survey.ready,
        "pictures": survey.found,
        "readable": len(survey.pictures),
        "captioned": len(survey.captions),
        "captions_from": survey.captions_from,
        "resolution": survey.limits.resolution,
        "captions_counted_in": survey.limits.measure.unit,
        "problems": {problem.name: len(findings) for problem, findings in by_problem(survey.findings).items()},
        "findings": [
            {
                "problem": finding.problem,
                "severity": finding.severity,
                "file": finding.name,
                "detail": finding.detail,
                "others": list(finding.others),
            }
            for finding in survey.findings
        ],
        "report": None,
        "metadata": None,
    }


def _examine(request: Request) -> Survey:
    from lorica.data.prepare import examine_folder

    limits = _limits(request)
    with _bar() as progress:
        return examine_folder(
            request.folder,
            limits,
            caption_column=request.caption_column,
            caption=request.instance_prompt,
            only_text_files=request.write_metadata,
            progress=progress,
        )


def _limits(request: Request) -> Limits:
    from lorica.data.caption_length import by_words, resolution_of
    from lorica.data.likeness import MOST_EDGES
    from lorica.data.prepare import Limits

    model, side, bits = request.pretrained_model_name_or_path, request.resolution, request.duplicate_distance
    own = resolution_of(model) if model else None
    return Limits(
        resolution=side if side is not None else own or RESOLUTION,
        aspect=request.max_aspect_ratio,
        edges=MOST_EDGES if bits is None else bits,
        measure=_tokens_of(model) if model else by_words(),
    )


def _tokens_of(model: str) -> CaptionMeasure:
    from lorica.cli.quiet import quiet_libraries
    from lorica.data.caption_length import by_tokens

    quiet_libraries()
    return by_tokens(model)


@contextmanager
def _bar() -> Iterator[Progress]:
    """Yield what shows a bar on standard error, if that is a terminal."""
    from lorica.training.progress import Reporter

    reporter = Reporter()
    with ExitStack() as stack:

        def start(total: int) -> Callable[[], None]:
            return stack.enter_context(reporter.progress("reading pictures", total))

        yield start


def _write(survey: Survey, request: Request) -> dict[str, object]:
    """Write what is asked for, and return the paths as ``--json`` names them."""
    from lorica.data.report_page import write_report

    written: dict[str, object] = {}
    if request.page:
        written["report"] = str(write_report(survey, request.page, overwrite=request.overwrite))
    if request.write_metadata:
        written["metadata"] = str(_write_metadata(survey, request.caption_column, request.overwrite))
    return written


def _write_metadata(survey: Survey, column: str, overwrite: bool) -> Path:
    """Write ``metadata.jsonl`` if every picture has a caption.

    Raises:
        DataError: if some have none.
    """
    from lorica.data.metadata import write_metadata

    missing = [item.name for item in survey.findings if item.problem in ("caption_missing", "caption_unreadable")]
    if missing:
        raise DataError(
            f"metadata.jsonl was not written: {len(missing)} of {survey.found} pictures have no caption that can be "
            f"read: {_some(missing)}. Put a .txt file in UTF-8 beside each."
        )
    return write_metadata(survey.folder, survey.captions, caption_column=column, overwrite=overwrite)


def _print_summary(survey: Survey) -> None:
    """Print what was found and the table of problems, the worst first."""
    from lorica.data.findings import SEVERITIES, by_problem

    click.echo(
        f"{_printable(survey.folder)}: {survey.found} pictures, {len(survey.pictures)} can be read, "
        f"{len(survey.captions)} have a caption (from {survey.captions_from})."
    )
    problems = by_problem(survey.findings)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for header in ("problem", "found", "effect", "where"):
        table.add_column(header, justify="right" if header == "found" else "left", overflow="fold")
    for problem, findings in problems.items():
        effect = Text(SEVERITIES[problem.severity], COLOURS[problem.severity])
        table.add_row(Text(problem.title), str(len(findings)), effect, Text(_some([item.name for item in findings])))
    if problems:
        Console(highlight=False).print(table)
    if any(problem.name == "caption_too_long" for problem in problems) and not survey.limits.measure.exact:
        click.echo("Captions were measured in words; --pretrained_model_name_or_path MODEL counts its tokens.")


def _closing(survey: Survey, facts: dict[str, object]) -> Iterator[str]:
    """Yield whether training can start, and what was written."""
    if not survey.usable:
        yield "None of the pictures can be read: there is nothing to train on."
    elif survey.ready:
        yield f"Ready: lorica train text-to-image --train_data_dir {shlex.quote(_printable(survey.folder))}"
    else:
        yield "Not ready: training would stop. Correct that first."
    for what, name in (("report", "The page with the pictures"), ("metadata", "The captions")):
        if facts[what]:
            yield f"{name}: {_printable(facts[what])}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:EXAMPLES]) + (f" and {len(names) - EXAMPLES} more" if len(names) > EXAMPLES else "")


def _printable(value: object) -> str:
    """Return text that a terminal can show, whatever bytes a file name holds."""
    return str(value).encode("utf-8", "replace").decode()
