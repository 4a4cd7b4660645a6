"""Numbers from outside: each is in bounds and finite, or refused before anything is computed; garbage stops no run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lorica.errors import ConfigError
from lorica.training.config.config import RunConfig
from lorica.training.optimizer import make_optimizer
from lorica.training.output.metrics import METRICS, read_metrics
from lorica.training.run import train

INTEGERS = [
    name for name, field in RunConfig.model_fields.items() if str(field.annotation).startswith(("<class 'int", "int"))
]
FLOATS = [name for name, field in RunConfig.model_fields.items() if "float" in str(field.annotation)]


@pytest.mark.parametrize("name", [name for name in INTEGERS if name != "local_rank"])
def test_every_count_has_a_bound(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: Input should be "):
        RunConfig.from_values({name: 2**64})


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", [1e400, float("nan"), "-inf", "nan"])
def test_every_number_is_finite(name: str, value: float | str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: Input should be a finite number"):
        RunConfig.from_values({name: value})


def test_a_long_value_is_shortened_in_the_message() -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_values({"rank": "9" * 100_000})
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("pairs", [("lr=0.1",), ("eps=1e400",), ("eps=NaN",)])
def test_arguments_of_the_optimizer_count_and_are_finite(settings: Callable[..., RunConfig], pairs: tuple[str]) -> None:
    with pytest.raises(ConfigError, match="optimizer_args"):
        make_optimizer(settings(optimizer_args=pairs), [])


@pytest.mark.parametrize("change", [{"rank": 1_000_000}, {"rank_pattern": ("*.to_k=1000000",)}])
def test_a_rank_that_no_layer_can_use_is_refused_with_the_layer(
    settings: Callable[..., RunConfig], change: dict[str, object]
) -> None:
    with pytest.raises(ConfigError, match=r"the rank of unet\..* is to be 1000000, but no layer .* at most 1024"):
        train(settings(**change), quiet=True)


def test_garbage_in_the_metrics_stops_no_run(settings: Callable[..., RunConfig]) -> None:
    result = train(settings(max_train_steps=2), quiet=True)
    path = result.output_dir / METRICS
    before = read_metrics(path)
    garbage = [
        b"\xff\xfe\x00",
        b"[1, 2]",
        b'{"step": "x", "loss": 1}',
        b'{"step": 1, "loss": "y"}',
        b"[" * 10_000,
        b"null",
    ]
    path.write_bytes(b"\n".join([*garbage, path.read_bytes(), b'{"step": 2, "los']))
    assert read_metrics(path) == before
    again = train(settings(max_train_steps=3, resume_from_checkpoint="latest"), quiet=True)
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3]
    assert again.final_loss > 0


def test_a_metrics_file_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / METRICS) == []
