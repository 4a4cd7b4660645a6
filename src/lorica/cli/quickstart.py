"""``lorica quickstart``: from nothing to a trained adapter and a picture of what it does."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lorica.cli.output import json_option, print_json, quiet_libraries, show
from lorica.tools.quoting import quoted

if TYPE_CHECKING:
    from lorica.demo.quickstart import QuickstartReport


@click.command(epilog="Needs no GPU, no download and no pictures of yours; takes a few minutes on two cores.")
@click.option(
    "--output_dir",
    "folder",
    default=Path("quickstart"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where everything is written.",
)
@click.option("--base", default="bundled", show_default=True, metavar="NAME|PATH", help="Base model.")
@json_option
def command(folder: Path, base: str, as_json: bool) -> None:
    """Train a LoRA on bundled pictures of a small orange creature and show what it does."""
    quiet_libraries()
    from lorica.demo.quickstart import quickstart  # brings torch along

    report = quickstart(folder, base=base)
    if as_json:
        print_json(asdict(report))
    else:
        show(closing(report, folder))


def closing(report: QuickstartReport, folder: Path) -> str:
    """Closing paragraph: what was made, where, and what to try next."""
    program, chosen = quoted(program_name()), "" if report.base == "bundled" else f" --base {quoted(report.base)}"
    generate = f"{program} generate{chosen} --lora {quoted(str(report.adapter))}"
    return f"""
In {report.seconds:.0f} s and {report.steps} steps this made a LoRA of a creature that the base model had never seen, \
the {report.word}.
Asked for it, the base drew it in {report.subject_score_base:.0%} of {report.pictures_per_score} pictures, \
with the adapter in {report.subject_score_adapter:.0%}.
Ordinary captions came out right in {report.other_score_base:.0%} before and {report.other_score_adapter:.0%} after.

  {folder / "comparison.png"}  without and with the adapter, side by side: open this first
  {report.adapter}  the adapter; loads in diffusers too
  {folder / "loss.png"}, metrics.jsonl, report.json  how the training went; {folder / "pictures"} what it saw

Next:
  {generate} --prompt "three small orange {report.word}s on a sky background" --num 4 --output more.png
  {generate} --prompt "a large orange {report.word} on a sand background" --grid strength=0,0.5,1,1.5 --output grid.png
  {program} train text-to-image --train_data_dir YOUR_PICTURES --output_dir my-lora --max_train_steps 300"""


def program_name() -> str:
    """Command that calls this program: its name, or its path where the name is not found."""
    found, own = shutil.which("lorica"), Path(sys.executable).parent / "lorica"
    if found or not own.exists():
        return "lorica"
    return os.path.relpath(own)
