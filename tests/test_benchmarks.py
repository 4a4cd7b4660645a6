"""The benchmark of a training step runs, and measures what it says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("peft")

FILE = Path(__file__).parent.parent / "benchmarks" / "train_step.py"


@pytest.mark.slow
def test_a_training_step_is_compared_in_time_parts_and_memory() -> None:
    found = importlib.util.spec_from_file_location("train_step", FILE)
    assert found is not None
    assert found.loader is not None
    benchmark = importlib.util.module_from_spec(found)
    found.loader.exec_module(benchmark)
    figures = benchmark.compare("bundled", 1, 2)
    assert set(figures["milliseconds"]) == {"script", "script, cached", "ours", "floor", "ours, checkpointed"}
    for name in ("script", "script, cached", "ours"):
        assert all(figures["split_milliseconds"][name][part] > 0 for part in benchmark.PARTS)
    assert figures["peak_megabytes"]["ours, checkpointed"] < 0.5 * figures["peak_megabytes"]["ours"]
    assert figures["peak_megabytes"]["ours"] == pytest.approx(figures["peak_megabytes"]["floor"], rel=0.2)
