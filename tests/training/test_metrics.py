"""The curve of a run: no step twice, nothing torn."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorica.training.loop import StepReport
from lorica.training.output.metrics import Metrics, moving_average, plot_loss, read_metrics


def report(step: int, loss: float = 0.5) -> StepReport:
    return StepReport(step, loss, 2.0, 1e-4)


def test_a_resumed_run_writes_no_step_twice(tmp_path: Path) -> None:
    with Metrics(tmp_path, 0) as metrics:
        for step in range(1, 7):
            metrics.write(report(step))
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 7, "lo')  # torn by a kill
    with Metrics(tmp_path, 4) as metrics:
        metrics.write(report(5, 0.25))
    lines = read_metrics(path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[-1] == {"step": 5, "loss": 0.25, "gradient_norm": 2.0, "learning_rate": 1e-4}


def test_each_step_is_on_disk_at_once(tmp_path: Path) -> None:
    with Metrics(tmp_path, 0) as metrics:
        metrics.write(report(1))
        assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    with Metrics(tmp_path, 0, writing=False) as metrics:
        metrics.write(report(1))
    assert list(tmp_path.iterdir()) == []


def test_the_moving_average_looks_back() -> None:
    assert moving_average([4.0, 2.0]) == [4.0, 2.0]
    values = [float(number) for number in range(60)]  # a window of three
    assert moving_average(values)[:4] == pytest.approx([0, 0.5, 1, 2])


def test_the_curve_is_a_picture(tmp_path: Path) -> None:
    with Metrics(tmp_path, 0) as metrics:
        metrics.write(report(1))
    assert plot_loss(tmp_path).read_bytes().startswith(b"\x89PNG")
