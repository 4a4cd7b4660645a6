"""``python -m lorica.demo.base``: retrain the bundled base model and print how well it draws."""

from __future__ import annotations

import argparse
from pathlib import Path

from lorica.demo.base.build import DENOISER_STEPS, build
from lorica.demo.measure import main as measure


def main() -> None:
    """Read the options, build the model, measure it."""
    parser = argparse.ArgumentParser(prog="python -m lorica.demo.base", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("base"), help="where the stages are kept (default: base)")
    parser.add_argument("--output", type=Path, default=Path("base/model"), help="where the pipeline folder goes")
    parser.add_argument("--steps", type=int, default=DENOISER_STEPS, help="training steps of the UNet")
    options = parser.parse_args()
    print(f"The base model is in {build(options.work, options.output, options.steps)}.")
    measure(["--model", str(options.output)])


main()
