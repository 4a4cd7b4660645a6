"""A run that is killed at any moment goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lorica.training.config.config import RunConfig
from lorica.training.output.checkpoint import list_checkpoints
from lorica.training.run import train

PROGRAM = """
import sys, torch
torch.set_num_threads(1)
from lorica.training.config.config import RunConfig
from lorica.training.run import train
train(RunConfig.from_toml(sys.argv[1]), quiet=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.13, 0.31])
def test_a_killed_run_goes_on_bit_for_bit(settings: Callable[..., RunConfig], tmp_path: Path, delay: float) -> None:
    options = {"max_train_steps": 90, "checkpointing_steps": 2, "checkpoints_total_limit": 2}
    killed = settings(**options, output_dir=tmp_path / "killed" / "out", resume_from_checkpoint="latest")
    run_file = tmp_path / "run.toml"
    run_file.write_text(killed.to_toml(), encoding="utf-8")
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(run_file)], env=os.environ.copy())
    _wait_for(lambda: bool(list_checkpoints(killed.output_dir)) or process.poll() is not None)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    resumed = train(killed, quiet=True)
    whole = train(settings(**options), quiet=True)
    assert resumed.adapter_path.read_bytes() == whole.adapter_path.read_bytes()
    lines = [(path.output_dir / "metrics.jsonl").read_text() for path in (resumed, whole)]
    assert lines[0] == lines[1]
    assert [path.name for path in resumed.output_dir.iterdir() if path.name.endswith((".part", ".old"))] == []


def _wait_for(done: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not done() and time.monotonic() < limit:
        time.sleep(0.01)
