"""Two processes do what one does with twice the batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lorica.formats import read
from lorica.training.config.config import RunConfig
from lorica.training.output.metrics import read_metrics
from lorica.training.run import train

# On GPUs the same without the variable. `--cpu` instead of `--multi_gpu` starts one process, whatever is asked for.
LAUNCH = (sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
NOISE = 2e-5  # relative; measured 7e-8 on the losses and 4.4e-6 on the factors
EPSILON = 1e-4  # else Adam's division makes as much of the noise in a gradient near 0 as of a gradient: 3.5e-5


@pytest.mark.slow
def test_two_processes_equal_one(settings: Callable[..., RunConfig], tmp_path: Path) -> None:
    options = {"max_train_steps": 5, "random_flip": True, "learning_rate": 1e-3, "adam_epsilon": EPSILON}
    one = train(settings(**options, train_batch_size=4, output_dir=tmp_path / "one"), quiet=True)
    two = settings(**options, train_batch_size=2, output_dir=tmp_path / "two")
    (tmp_path / "run.toml").write_text(two.to_toml(), encoding="utf-8")
    command = [*LAUNCH, "--main_process_port", str(free_port()), "-m", "lorica", "train", str(tmp_path / "run.toml")]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, timeout=180)
    pairs = list(zip(_losses(tmp_path / "two"), _losses(tmp_path / "one"), strict=True))
    assert all(a == pytest.approx(b, rel=NOISE) for a, b in pairs)
    other = read(tmp_path / "two" / "pytorch_lora_weights.safetensors")
    for component, path, layer in one.adapter.layers():
        for name, tensor in layer.tensors.items():
            apart = (other.components[component][path].tensors[name] - tensor).norm() / tensor.norm()
            assert apart < NOISE


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(folder / "metrics.jsonl")]
