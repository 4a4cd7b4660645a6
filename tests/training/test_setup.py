"""From settings to parts: what each setting really changes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lorica.errors import (
    ConfigError,
    DataError,
    FileError,
    MissingExtraError,
    ModelError,
    StateError,
    UnknownNameError,
)
from lorica.training.config.config import RunConfig
from lorica.training.device import device_of
from lorica.training.loop import StepReport
from lorica.training.output.folder import hold_folder
from lorica.training.progress import Reporter
from lorica.training.run import open_session, train
from lorica.training.session import Session
from lorica.training.setup import make_accelerator

Settings = Callable[..., RunConfig]
QUIET = Reporter(quiet=True)
LONG = "red " * 30


@pytest.fixture
def session(settings: Settings) -> Any:
    """Make the parts of a run."""
    made: list[Session] = []

    def make(**changes: Any) -> Session:
        config = settings(**changes)
        config.output_dir.mkdir(exist_ok=True)
        made.append(open_session(config, make_accelerator(config), QUIET))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_cpu_has_no_number() -> None:
    class Numbered:
        """Stands for the accelerator of one of several processes."""

        device = torch.device("cpu:0")

    assert device_of(Numbered()) == torch.device("cpu")
    assert str(device_of(Numbered())) == "cpu"


def rates(session: Session) -> list[float]:
    return [group["lr"] for group in session.loop.optimizer.inner.param_groups]


def test_rates_can_grow_with_the_batch(session: Callable[..., Session]) -> None:
    assert rates(session(learning_rate=1e-3)) == [1e-3]
    scaled = session(learning_rate=1e-3, scale_lr=True, train_batch_size=3, gradient_accumulation_steps=5)
    assert rates(scaled) == [1.5e-2]


def test_the_text_encoder_has_its_own_rate(session: Callable[..., Session]) -> None:
    assert rates(session(learning_rate=1e-3, train_text_encoder=True)) == [1e-3, 1e-3]
    assert rates(session(learning_rate=1e-3, train_text_encoder=True, text_encoder_lr=2e-5)) == [1e-3, 2e-5]


def test_pictures_have_as_many_views_as_asked_for(session: Callable[..., Session]) -> None:
    def views(**changes: Any) -> list[int]:
        return [len(example.views) for example in session(**changes).loop.dataset.examples]

    # in order of the names: blue, green and red are square, orange and purple are not
    assert views() == [1, 1, 4, 4, 1]
    assert views(random_crops=2, random_flip=True) == [2, 2, 4, 4, 2]
    assert views(center_crop=True, random_flip=True) == [2, 2, 2, 2, 2]


def test_a_subset_is_drawn_by_the_seed(session: Callable[..., Session]) -> None:
    def names(seed: int) -> list[str]:
        dataset = session(max_train_samples=2, seed=seed).loop.dataset
        return [example.item.path.stem for example in dataset.examples]

    assert names(1) == names(1)
    assert len({tuple(names(seed)) for seed in range(6)}) > 1


def test_checkpointing_gradients_changes_memory_and_nothing_else(settings: Settings, session: Any) -> None:
    plain, saving = session(), session(gradient_checkpointing=True)
    assert not plain.loop.recipe.components["unet"].is_gradient_checkpointing
    assert saving.loop.recipe.components["unet"].is_gradient_checkpointing
    one, other = (
        train(settings(output_dir=settings().output_dir / str(on), gradient_checkpointing=on), quiet=True)
        for on in (False, True)
    )
    assert one.adapter == other.adapter


def test_latents_are_drawn_from_the_distribution(session: Callable[..., Session]) -> None:
    dataset = session().loop.dataset
    mean, std = dataset.examples[0].views[0]
    draws = torch.stack([dataset.draw(0, torch.Generator().manual_seed(seed)).latents for seed in range(400)])
    assert ((draws.mean(0) - mean) / std).abs().max() < 0.25  # five standard errors
    assert (draws.std(0) / std).mean() == pytest.approx(1, abs=0.01)


def test_modules_are_chosen_in_every_component(session: Callable[..., Session]) -> None:
    def chosen(*patterns: str) -> dict[str, int]:
        adapter = session(train_text_encoder=True, target_modules=patterns).loop.trainable.adapter()
        return {name: len(layers) for name, layers in adapter.components.items()}

    assert chosen("attention") == {"unet": 32, "text_encoder": 8}
    assert chosen("*.attn2.to_k", "*.fc1") == {"unet": 4, "text_encoder": 2}
    with pytest.raises(ConfigError, match=r"text_encoder is to be trained, but target_modules \*.attn2.to_k names no"):
        chosen("*.attn2.to_k")
    with pytest.raises(UnknownNameError, match=r"attn3"):
        chosen("*.attn2.to_k", "*.attn3.to_k")


def test_steps_follow_from_epochs(session: Callable[..., Session]) -> None:
    assert session(max_train_steps=None, num_train_epochs=7).loop.plan.steps == 7 * 3  # five pictures in twos
    assert session(max_train_steps=None, num_train_epochs=7, gradient_accumulation_steps=2).loop.plan.steps == 7 * 2


def test_half_precision_keeps_the_masters_in_full(settings: Settings) -> None:
    reports: list[StepReport] = []
    result = train(settings(mixed_precision="bf16", max_train_steps=3), on_step=reports.append, quiet=True)
    exact: list[StepReport] = []
    train(settings(max_train_steps=3, output_dir=settings().output_dir / "exact"), on_step=exact.append, quiet=True)
    assert all(
        tensor.dtype == torch.float32 for *_, layer in result.adapter.layers() for tensor in layer.tensors.values()
    )
    assert [report.loss for report in reports] == pytest.approx([report.loss for report in exact], rel=0.03)
    assert reports[0].loss != exact[0].loss


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"train_data_dir": None}, ConfigError, "no pictures are named"),
        ({"resolution": 30}, ConfigError, "resolution is 30; this model needs a multiple of 8, such as 32"),
        ({"mixed_precision": "fp16"}, ConfigError, "fp16, which needs a GPU"),
        ({"report_to": "nonsense"}, ConfigError, "report_to names the tracker 'nonsense'; known are all, "),
        ({"report_to": "wandb"}, MissingExtraError, "report_to='wandb' is not installed"),
        ({"pretrained_model_name_or_path": "/gone/model"}, FileError, "there is no base model at /gone/model"),
        (
            {"instance_prompt": LONG, "on_long_caption": "stop"},
            DataError,
            r"5 of 5 captions .* 17 tokens.*blue.png \(32 tokens\)",
        ),
        ({"target_modules": ("*.nothing",)}, UnknownNameError, "nothing"),
        ({"prediction_type": "epsilon", "resume_from_checkpoint": "/gone"}, FileError, "there is no checkpoint /gone"),
    ],
)
@pytest.mark.filterwarnings("ignore:.log_with=wandb")  # accelerate says it in its own way too
def test_each_fault_is_met_before_training(
    settings: Settings, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(settings(**change), on_step=lambda _: pytest.fail("it trained"), quiet=True)


def test_long_captions_are_reported_and_cut(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    train(settings(instance_prompt=LONG, max_train_steps=1))
    assert (
        "5 of 5 captions are longer than the 17 tokens that the model reads: blue.png (32 tokens)"
        in capsys.readouterr().err
    )


def test_a_model_folder_without_an_index_is_refused(settings: Settings) -> None:
    with pytest.raises(FileError, match=r"holds no model_index\.json"):
        train(settings(pretrained_model_name_or_path=str(settings().train_data_dir)), quiet=True)


def test_a_broken_model_is_named(settings: Settings, base: Any, tmp_path: Any) -> None:
    shutil.copytree(base, tmp_path / "broken")
    weights = next((tmp_path / "broken" / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(ModelError, match=r"cannot load the base model .*broken"):
        train(settings(pretrained_model_name_or_path=str(tmp_path / "broken")), quiet=True)


def test_an_output_folder_that_cannot_be_written_is_refused(settings: Settings, tmp_path: Any) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"the output folder .* cannot be written"):
        train(settings(output_dir=tmp_path / "file" / "out"), quiet=True)


def test_a_second_run_in_the_same_folder_is_refused(settings: Settings) -> None:
    folder = settings().output_dir
    folder.mkdir()
    with hold_folder(folder), pytest.raises(StateError, match="in use by another run"):
        train(settings(), quiet=True)


def test_a_step_applies_a_gradient_no_longer_than_allowed(
    session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = session(max_grad_norm=1e-3).loop
    applied: list[float] = []
    step = loop.optimizer.inner.step

    def measured() -> None:
        gradients = [parameter.grad for parameter in loop.trainable.parameters() if parameter.grad is not None]
        applied.append(torch.cat(gradients).norm().item())
        step()

    monkeypatch.setattr(loop.optimizer.inner, "step", measured)
    report = next(loop.run(0, lambda: False))
    assert report.gradient_norm > 1e-2  # or the test would pass by doing nothing
    assert applied == [pytest.approx(1e-3, rel=1e-3)]


def test_a_tracker_gets_every_step(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    logged: list[tuple[int, dict[str, float]]] = []

    def keep(_: object, values: dict[str, float], step: int) -> None:
        logged.append((step, values))

    monkeypatch.setattr("accelerate.Accelerator.log", keep)
    train(settings(report_to="tensorboard", max_train_steps=2), quiet=True)
    assert [step for step, _ in logged] == [1, 2]
    assert logged[0][1].keys() == {"loss", "lr", "gradient_norm"}
