"""Optimizers by name and by class path, and the running mean: what they do to the file, and that they resume."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lorica.adapters import Adapter
from lorica.errors import ConfigError, LoRAError, MissingExtraError, UnknownNameError
from lorica.training.config.config import RunConfig
from lorica.training.optimizer import make_optimizer
from lorica.training.output.checkpoint import list_checkpoints, read_checkpoint
from lorica.training.run import train
from tiny_training import assert_resumes

Settings = Callable[..., RunConfig]
EXTRAS = {"prodigy": "prodigyopt", "adamw8bit": "bitsandbytes"}


def ups(adapter: Adapter) -> Tensor:
    return torch.cat([layer.tensors["up"].flatten() for _, _, layer in adapter.layers()])


def states(folder: Path) -> dict[str, Tensor]:
    return dict(read_checkpoint(list_checkpoints(folder)[-1]).tensors)


def test_a_class_path_is_what_steps(settings: Settings, tmp_path: Path) -> None:
    options = {"max_train_steps": 1, "learning_rate": 0.5, "max_grad_norm": 1e9}
    adam = train(settings(**options, output_dir=tmp_path / "adam"), quiet=True)
    plain, damped = (
        train(settings(**options, optimizer="torch.optim.SGD", optimizer_args=args, output_dir=tmp_path / name))
        for name, args in (("plain", ()), ("damped", ("momentum=0.9", "dampening=0.25")))
    )
    assert ups(adam.adapter).abs().median() == pytest.approx(0.5, rel=1e-3)  # Adam's first step is the rate itself
    assert ups(plain.adapter).abs().max() < 0.4
    assert not any("exp_avg" in name for name in states(plain.output_dir))
    assert any("momentum_buffer" in name for name in states(damped.output_dir))
    assert torch.equal(ups(plain.adapter), ups(damped.adapter))  # the first step of momentum is not damped


def test_adafactor_sees_matrices(settings: Settings) -> None:
    result = train(settings(max_train_steps=1, optimizer="Adafactor"), quiet=True)
    rows = {name: value for name, value in states(result.output_dir).items() if name.endswith("/exp_avg_sq_row")}
    assert len(rows) == 2 * len(list(result.adapter.layers()))
    assert ups(result.adapter).abs().max() > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")  # of extras
@pytest.mark.parametrize("name", ["torch.optim.NAdam", "adafactor", "prodigy", "adamw8bit"])
def test_any_optimizer_and_the_mean_resume_bit_for_bit(settings: Settings, tmp_path: Path, name: str) -> None:
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    assert_resumes(settings, tmp_path, stop=2, max_train_steps=4, optimizer=name, use_ema=True, ema_decay=0.3)


def test_the_file_is_the_running_mean(settings: Settings, tmp_path: Path) -> None:
    options = {"max_train_steps": 3, "checkpointing_steps": 1}
    plain = train(settings(**options), quiet=True)
    averaged = train(settings(**options, use_ema=True, ema_decay=0.2, output_dir=tmp_path / "mean"), quiet=True)
    checkpoints = [read_checkpoint(path).tensors for path in list_checkpoints(plain.output_dir)]
    for component, path, layer in averaged.adapter.layers():
        mean = torch.zeros_like(layer.tensors["up"])
        for kept, tensors in zip((2 / 11, 0.2, 0.2), checkpoints, strict=True):
            mean = kept * mean + (1 - kept) * tensors[f"factor/{component}/{path}/up"]
        assert torch.allclose(layer.tensors["up"], mean, atol=1e-7)
    assert averaged.adapter != plain.adapter
    assert all(torch.equal(value, states(averaged.output_dir)[key]) for key, value in checkpoints[-1].items())


@pytest.mark.parametrize(("name", "package"), EXTRAS.items())
def test_a_missing_package_is_named(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"needs {package}, which is not installed: pip install 'lorica\["):
        make_optimizer(RunConfig(optimizer=name), [{"params": [torch.nn.Parameter(torch.ones(3))], "lr": 1.0}])


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"optimizer": "adamv"}, UnknownNameError, "Did you mean 'adamw'"),
        ({"optimizer": "torch.optim.Adamm"}, UnknownNameError, "no optimizer Adamm in torch.optim"),
        ({"optimizer": "gone_for_good.Adam"}, MissingExtraError, "needs gone_for_good"),
        ({"optimizer_args": ("speed=3",)}, ConfigError, "does not take these optimizer_args: .*speed"),
        ({"optimizer_args": ("speed",)}, ConfigError, "optimizer_args takes NAME=VALUE"),
    ],
)
def test_what_cannot_be_made_is_refused(changes: dict[str, object], kind: type[LoRAError], message: str) -> None:
    with pytest.raises(kind, match=message):
        make_optimizer(RunConfig.from_values(changes), [{"params": [torch.nn.Parameter(torch.ones(3))], "lr": 1.0}])
