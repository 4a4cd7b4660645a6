"""Settings of single layers, from end to end: ranks, alphas, first values, rates and the length of the change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lorica.adapters import Adapter
from lorica.errors import ConfigError, UnknownNameError
from lorica.formats import read
from lorica.runtime.model.targets import modules_of
from lorica.runtime.trainable.initials import pissa
from lorica.runtime.trainable.trainable import Trainable
from lorica.training.config.config import RunConfig
from lorica.training.config.per_layer import numbers_by_glob
from lorica.training.run import train
from lorica.training.session import Session
from tiny_training import assert_resumes

Settings = Callable[..., RunConfig]
Opened = Callable[..., Session]
FP32_NOISE = 1e-5  # relative to the largest entry


def step(session: Session, number: int = 0) -> float:
    return next(session.loop.run(number, lambda: False)).loss


def norms(adapter: Adapter) -> list[float]:
    return [layer.delta(torch.zeros(layer.weight_shape)).norm().item() for _, _, layer in adapter.layers()]


def test_ranks_and_alphas_by_glob_are_in_the_file(settings: Settings) -> None:
    patterns = {"rank_pattern": ("*.attn2.*=5", "*.to_v=2"), "alpha_pattern": ("*.to_q=1.5",)}
    result = train(settings(**patterns, max_train_steps=1), quiet=True)
    seen: set[tuple[bool, str]] = set()
    for _, path, layer in read(result.adapter_path).layers():
        crossed, name = ".attn2." in path, path.rsplit(".", 1)[-1]
        rank = 2 if name == "to_v" else 5 if crossed else 3
        assert (path, layer.rank) == (path, rank)
        assert (path, layer.alpha) == (path, 1.5 if name == "to_q" else rank)
        seen.add((crossed, name))
    assert {(True, "to_q"), (True, "to_v"), (False, "to_q"), (False, "to_k")} <= seen


def test_first_values_follow_their_rule(opened: Opened) -> None:
    sessions = {rule: opened(init_lora_weights=rule, rank=2) for rule in ("gaussian", "zero", "orthogonal")}
    first = {rule: session.loop.trainable.adapter() for rule, session in sessions.items()}
    for _, _, layer in first["orthogonal"].layers():
        down = layer.tensors["down"]
        gram = down @ down.T
        assert torch.allclose(gram, torch.eye(2) * down.shape[1] / 2, atol=1e-4)
    for _, _, layer in first["zero"].layers():
        down = layer.tensors["down"]
        assert 0.5 / down.shape[1] ** 0.5 < down.abs().max() <= 1 / down.shape[1] ** 0.5
    assert first["gaussian"] != first["zero"]
    losses = [step(session) for session in sessions.values()]
    assert losses == [losses[0]] * 3  # none of them changes the model


def test_pissa_leaves_the_model_and_is_written_as_a_plain_change(opened: Opened) -> None:
    plain, session = opened(), opened(init_lora_weights="pissa", alpha=6)
    assert step(session) == pytest.approx(step(plain), rel=FP32_NOISE)
    factors = session.loop.trainable.named_parameters()
    moved = 0.0
    for component, path, layer in session.loop.trainable.adapter().layers():
        weight = modules_of(session.loop.recipe.components[component])[path].weight
        first = pissa(weight, 3, 2.0)
        up, down = factors[f"{component}/{path}/up"], factors[f"{component}/{path}/down"]
        expected = 2.0 * (up @ down - first.up @ first.down)
        assert (layer.delta(weight) - expected).abs().max() < FP32_NOISE * weight.abs().max() * 10
        assert layer.rank == 6
        moved = max(moved, expected.abs().max().item())
    assert moved > 1e-2


def test_lora_plus_moves_up_so_much_faster(settings: Settings, tmp_path: Path) -> None:
    one, four = (
        train(settings(max_train_steps=1, lora_plus_ratio=ratio, output_dir=tmp_path / f"{ratio}"), quiet=True).adapter
        for ratio in (None, 4.0)
    )
    for (_, _, slow), (_, _, fast) in zip(one.layers(), four.layers(), strict=True):
        assert torch.allclose(fast.tensors["up"], 4 * slow.tensors["up"], rtol=1e-5)
        assert torch.equal(fast.tensors["down"], slow.tensors["down"])
        assert slow.tensors["up"].abs().max() > 0


def test_rates_by_glob_are_how_far_a_first_step_goes(settings: Settings, tmp_path: Path) -> None:
    """Adam's first step of every entry is its learning rate."""
    options: dict[str, Any] = {
        "train_text_encoder": True,
        "learning_rate": 1e-2,
        "text_encoder_lr": 4e-3,
        "learning_rate_pattern": ("*.to_k=3e-2", "*.attn2.*=5e-2", "*.q_proj=1e-3"),
        "max_train_steps": 1,
        "max_grad_norm": 1e9,
    }
    seen: set[float] = set()
    for ratio in (None, 2.0):
        config = settings(**options, lora_plus_ratio=ratio, output_dir=tmp_path / f"{ratio}")
        for component, path, layer in train(config, quiet=True).adapter.layers():
            plain = 4e-3 if component == "text_encoder" else 1e-2
            own = 5e-2 if ".attn2." in path else 3e-2 if path.endswith(".to_k") else plain
            rate = (1e-3 if path.endswith(".q_proj") else own) * (ratio or 1)
            assert layer.tensors["up"].abs().median() == pytest.approx(rate, rel=1e-2), path
            seen.add(rate)
    assert len(seen) == 10


def test_dropout_by_glob_acts_on_the_layers_that_it_names(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    session = opened(lora_dropout=0.25, lora_dropout_pattern=("*.attn1.*=0", "*.to_v=0.5"))
    shares: dict[str, float] = {}
    drop = Trainable._drop

    def noted(self: Trainable, x: torch.Tensor, name: str, share: float) -> torch.Tensor:
        shares[name] = share
        dropped = drop(self, x, name, share)
        if x.numel() > 200:
            assert (dropped == 0).float().mean().item() == pytest.approx(share, abs=0.15)
            assert torch.equal(dropped[dropped != 0], (x / (1 - share))[dropped != 0])
        return dropped

    monkeypatch.setattr(Trainable, "_drop", noted)
    step(session)
    expected = {
        f"unet/{path}": 0.5 if path.endswith(".to_v") else 0.0 if ".attn1." in path else 0.25
        for path in session.loop.trainable.modules["unet"]
    }
    assert shares == {path: share for path, share in expected.items() if share}  # where it is 0, nothing is asked
    assert set(expected.values()) == {0.0, 0.25, 0.5}


def test_no_change_is_longer_than_the_limit(settings: Settings, tmp_path: Path) -> None:
    free, limited = (
        norms(train(settings(max_train_steps=3, scale_weight_norms=most, output_dir=tmp_path / f"{most}")).adapter)
        for most in (None, 0.05)
    )
    assert max(limited) == pytest.approx(0.05, rel=1e-4)
    assert max(free) > 0.06


@pytest.mark.parametrize("rule", ["orthogonal", "pissa"])
def test_a_run_with_all_of_it_resumes_bit_for_bit(settings: Settings, tmp_path: Path, rule: str) -> None:
    options: dict[str, Any] = {
        "init_lora_weights": rule,
        "lora_plus_ratio": 3.0,
        "rank_pattern": ("*.to_k=2",),
        "scale_weight_norms": None if rule == "pissa" else 0.05,
    }
    assert_resumes(
        settings,
        tmp_path,
        **options,
        learning_rate_pattern=("*.to_k=2e-2",),
        lora_dropout_pattern=("*.to_q=0.3",),
    )


def test_the_last_glob_that_fits_counts_and_each_must_fit() -> None:
    places = [("unet", "a.to_k"), ("unet", "a.to_q"), ("text_encoder", "b.to_k")]
    assert numbers_by_glob(["*.to_k=2", "a.*=3"], places, "x") == {places[0]: 3, places[1]: 3, places[2]: 2}
    with pytest.raises(UnknownNameError, match=r"unknown layer in x '\*\.to_z'"):
        numbers_by_glob(["*.to_z=2"], places, "x")
    assert numbers_by_glob(["a.*=0"], places, "x", zero=True) == {places[0]: 0, places[1]: 0}
    for wrong in ("*.to_k=0", "*.to_k", "=3", "*.to_k=-1", "*.to_k=many"):
        with pytest.raises(ConfigError, match="x takes GLOB=NUMBER"):
            numbers_by_glob([wrong], places, "x")


def test_settings_that_do_not_agree_are_refused(opened: Opened) -> None:
    with pytest.raises(ConfigError, match="scale_weight_norms would shrink"):
        RunConfig(init_lora_weights="pissa", scale_weight_norms=1)
    with pytest.raises(ConfigError, match=r"the rank 2\.5; expected a whole number"):
        opened(rank_pattern=("*.to_k=2.5",))
    with pytest.raises(ConfigError, match="PiSSA cannot take rank 40"):
        opened(init_lora_weights="pissa", rank=40)
    with pytest.raises(ConfigError, match="the dropout 1; expected less than 1"):
        opened(lora_dropout_pattern=("*.to_k=1",))
    with pytest.raises(UnknownNameError, match="unknown layer in learning_rate_pattern"):
        opened(learning_rate_pattern=("*.to_z=1",))
