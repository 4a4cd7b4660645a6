"""The base in fewer bits: what it takes, what it gives, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from lorica.errors import ConfigError, LoRAError, MissingExtraError
from lorica.training.config.config import RunConfig
from lorica.training.config.record import record_of
from lorica.training.loop import StepReport
from lorica.training.recipes.load import PACKERS
from lorica.training.run import train

Settings = Callable[..., RunConfig]
LIBRARIES = {"int8": "torchao", "nf4": "bitsandbytes"}
PACKED_ERRORS = {"int8": 0.01, "nf4": 0.15}  # relative; measured 0.0041 and 0.093 on normal weights

# What the libraries say about machines and versions that are not these.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(128, 192), nn.Tanh(), nn.Conv1d(7, 5, 3)).requires_grad_(False)


@pytest.mark.parametrize("name", PACKERS)
def test_packed_layers_give_nearly_the_same_and_pass_gradients_on(name: str) -> None:
    pytest.importorskip(LIBRARIES[name])
    whole, packed = small(), small()
    PACKERS[name](packed, torch.float32)
    outputs, gradients = [], []
    for model in (whole, packed):
        x = torch.linspace(-2, 2, 7 * 128).view(1, 7, 128).requires_grad_(True)
        outputs.append(model[0](x))
        outputs[-1].square().sum().backward()
        gradients.append(x.grad)
    for one, other in (outputs, gradients):
        assert 1e-4 < (one - other).norm() / one.norm() < PACKED_ERRORS[name]
    assert type(packed[0].weight) is not nn.Parameter
    assert isinstance(packed[0], nn.Linear)  # so that adapters find it
    assert torch.equal(packed[2].weight, whole[2].weight)


@pytest.mark.parametrize("name", PACKERS)
def test_training_on_a_packed_base_learns_nearly_the_same_and_resumes_bit_for_bit(
    settings: Settings, tmp_path: Path, name: str
) -> None:
    pytest.importorskip(LIBRARIES[name])
    plain, packed = list[StepReport](), list[StepReport]()
    options = {"max_train_steps": 4, "base_precision": name}
    train(settings(max_train_steps=4, output_dir=tmp_path / "plain"), on_step=plain.append, quiet=True)
    whole = train(settings(**options), on_step=packed.append, quiet=True)
    assert [report.loss for report in packed] == pytest.approx([report.loss for report in plain], rel=0.2)
    assert packed[0].loss != plain[0].loss
    parted = tmp_path / "parted" / "out"
    train(settings(**{**options, "max_train_steps": 2}, output_dir=parted), quiet=True)
    last = train(settings(**options, output_dir=parted, resume_from_checkpoint="latest"), quiet=True)
    assert last.adapter_path.read_bytes() == whole.adapter_path.read_bytes()


def test_a_half_base_computes_in_its_own_precision(settings: Settings, tmp_path: Path) -> None:
    half, mixed = (
        train(settings(max_train_steps=2, output_dir=tmp_path / name / "out", **{name: "bf16"}), quiet=True).adapter
        for name in ("base_precision", "mixed_precision")
    )
    assert half == mixed


def test_a_full_base_may_compute_in_half(settings: Settings, tmp_path: Path) -> None:
    full, half = (
        train(settings(max_train_steps=2, mixed_precision="bf16", base_precision=base, output_dir=tmp_path / base))
        for base in ("fp32", "bf16")
    )
    assert full.adapter != half.adapter
    assert full.final_loss == pytest.approx(half.final_loss, rel=0.03)


@pytest.mark.parametrize("name", PACKERS)
def test_a_missing_library_is_named(settings: Settings, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {"int8": "torchao.quantization", "nf4": "bitsandbytes.nn"}
    monkeypatch.setitem(sys.modules, LIBRARIES[name], None)
    monkeypatch.setitem(sys.modules, modules[name], None)
    with pytest.raises(MissingExtraError, match=rf"needs the package '{LIBRARIES[name]}'.*pip install 'lorica\["):
        train(settings(base_precision=name), quiet=True)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"base_precision": "bf16", "mixed_precision": "no"}, ConfigError, "but a step computes in float32"),
        ({"base_precision": "fp16"}, ConfigError, "base_precision is fp16, which needs a GPU"),
        ({"enable_xformers_memory_efficient_attention": True}, MissingExtraError, "torch's own attention"),
    ],
)
def test_what_cannot_be_is_refused_before_training(
    settings: Settings, change: dict[str, object], kind: type[LoRAError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        train(settings(**change), on_step=lambda _: pytest.fail("it trained"), quiet=True)


def test_pissa_and_a_packed_base_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match="pissa splits the weights of the base, which nf4 packs"):
        RunConfig(base_precision="nf4", init_lora_weights="pissa")


def test_the_flag_for_8_bit_adam_is_the_optimizer_of_that_name() -> None:
    assert RunConfig(use_8bit_adam=True).optimizer == "adamw8bit"
    assert RunConfig(use_8bit_adam=True, optimizer_type="adamw8bit").optimizer == "adamw8bit"
    assert RunConfig(use_8bit_adam=False).optimizer == "adamw"
    assert RunConfig.from_values({"use-8bit-adam": "true"}).optimizer == "adamw8bit"
    with pytest.raises(ConfigError, match="use_8bit_adam and optimizer=prodigy are two optimizers"):
        RunConfig(use_8bit_adam=True, optimizer="prodigy")


def test_a_run_is_not_resumed_on_another_base() -> None:
    assert record_of(RunConfig(base_precision="bf16")).facts["base_precision"] == "bf16"
