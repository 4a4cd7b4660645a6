"""``python -m lorica.demo.base``: train the bundled base model again from nothing, and measure how well it draws."""

from __future__ import annotations

from pathlib import Path

import click

from lorica.demo.base.build import DENOISER_STEPS, build
from lorica.demo.measure import main as measure


@click.command()
@click.option(
    "--work", type=click.Path(path_type=Path), default="base", show_default=True, help="Folder of the stages."
)
@click.option(
    "--output", type=click.Path(path_type=Path), default="base/model", show_default=True, help="Folder of the pipeline."
)
@click.option("--steps", default=DENOISER_STEPS, show_default=True, help="Training steps of the UNet.")
def command(work: Path, output: Path, steps: int) -> None:
    """Train the bundled base model again from nothing, and measure how well it draws."""
    click.echo(f"The base model is in {build(work, output, steps)}.")
    measure(["--model", str(output)])


if __name__ == "__main__":
    command(prog_name="python -m lorica.demo.base")
