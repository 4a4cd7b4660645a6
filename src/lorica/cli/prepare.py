"""``lorica prepare``: everything that is wrong with a folder of pictures, before a night is spent on it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lorica.cli.output import FAILED, WRONG_INPUT, json_option, print_json, quiet_libraries, show
from lorica.errors import ConfigError, DataError
from lorica.printing import expanded, printable

if TYPE_CHECKING:
    from lorica.data.caption_length import CaptionMeasure
    from lorica.data.findings import Severity
    from lorica.data.prepare import Limits, Survey

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
@click.option("--trigger_word", metavar="TEXT", help="Also find captions that do the work of this trigger word.")
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
def command(
    folder: Path,
    *,
    report: Path | None,
    no_report: bool,
    write_metadata: bool,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> int:
    r"""Check a folder of pictures and captions, and write a page that shows every problem.

    Finds pictures that cannot be read, copies and lookalikes, pictures that are too small or too long, captions that
    are missing, empty or too long, and entries that belong to no picture. Your files are not changed.

    The exit code is 1 if training would stop at a problem, and 2 if there is nothing to train on.

    \b
    lorica prepare pictures
    lorica prepare pictures --write_metadata
    """
    if report and no_report:
        raise ConfigError("--report and --no_report contradict each other: leave one out.")
    if write_metadata and options["instance_prompt"] is not None:
        raise ConfigError("--write_metadata takes the captions of .txt files: leave --instance_prompt out.")
    from lorica.data.metadata import refuse_to_overwrite  # brings torch along
    from lorica.data.report_page import refuse_foreign, write_report

    folder = expanded(folder)
    page = None if no_report else report or folder / REPORT
    if page:
        refuse_foreign(page, overwrite)
    if write_metadata:
        refuse_to_overwrite(folder / METADATA, overwrite)
    survey = _examine(folder, only_text_files=write_metadata, **options)
    if not as_json:
        _print_summary(survey)
    facts: dict[str, Any] = {**survey.as_dict(), "report": None, "metadata": None}
    if page:
        facts["report"] = str(write_report(survey, page, overwrite=overwrite))
    if write_metadata:
        facts["metadata"] = str(_write_metadata(survey, options["caption_column"], overwrite))
    if as_json:
        print_json(facts)
    else:
        show("\n".join(_closing(survey, facts)))
    return 0 if survey.ready else FAILED if survey.usable else WRONG_INPUT


def _examine(
    folder: Path,
    *,
    caption_column: str,
    instance_prompt: str | None,
    trigger_word: str | None,
    only_text_files: bool,
    **limits: Any,
) -> Survey:
    from lorica.data.prepare import examine_folder
    from lorica.training.progress import Reporter

    return examine_folder(
        folder,
        _limits(**limits),
        caption_column=caption_column,
        caption=instance_prompt,
        only_text_files=only_text_files,
        trigger=trigger_word,
        progress=Reporter().progress,
    )


def _limits(
    resolution: int | None,
    pretrained_model_name_or_path: str | None,
    max_aspect_ratio: float,
    duplicate_distance: int | None,
) -> Limits:
    from lorica.data.caption_length import by_words, resolution_of
    from lorica.data.likeness import MOST_EDGES
    from lorica.data.prepare import Limits

    model = pretrained_model_name_or_path
    own = resolution_of(model) if model else None
    return Limits(
        resolution=resolution if resolution is not None else own or RESOLUTION,
        aspect=max_aspect_ratio,
        edges=MOST_EDGES if duplicate_distance is None else duplicate_distance,
        measure=_tokens_of(model) if model else by_words(),
    )


def _tokens_of(model: str) -> CaptionMeasure:
    from lorica.data.caption_length import by_tokens

    quiet_libraries()
    return by_tokens(model)


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
    """Print the counts and the table of problems, the worst first."""
    from lorica.data.findings import SEVERITIES, by_problem

    show(
        f"{printable(survey.folder)}: {survey.found} pictures, {len(survey.pictures)} can be read, "
        f"{len(survey.captions)} have a caption (from {survey.captions_from})."
    )
    for line in survey.remarks:
        show(f"{line[0].upper()}{line[1:]}.")
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
        show("Captions were measured in words; --pretrained_model_name_or_path MODEL counts its tokens.")


def _closing(survey: Survey, facts: Mapping[str, object]) -> Iterator[str]:
    """Last lines: whether training can start, and the files that were written."""
    if not survey.usable:
        yield "None of the pictures can be read: there is nothing to train on."
    elif survey.ready:
        yield f"Ready: lorica train text-to-image --train_data_dir {shlex.quote(printable(survey.folder))}"
    else:
        yield "Not ready: training would stop. Correct that first."
    for what, name in (("report", "The page with the pictures"), ("metadata", "The captions")):
        if facts[what]:
            yield f"{name}: {printable(facts[what])}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:EXAMPLES]) + (f" and {len(names) - EXAMPLES} more" if len(names) > EXAMPLES else "")
