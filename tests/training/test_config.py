"""Settings: what is refused and how it is said, and that a run file says everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorica.errors import ConfigError, FileError
from lorica.training.config.config import RunConfig
from lorica.training.config.refused import REFUSED


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rnk": 3}, "unknown setting 'rnk'. Did you mean 'rank'?"),
        ({"zzz": 3}, "unknown setting 'zzz'. Known: adam_beta1, "),
        ({"rank": 0}, "rank: Input should be greater than 0, got 0."),
        (
            {"rank": "x", "seed": -1},
            "parse string as an integer, got 'x'; seed: Input should be greater than",
        ),
        ({"lr_scheduler": "cosin"}, "lr_scheduler: Input should be 'linear', 'cosine', "),
        ({"text_encoder_lr": 1e-4}, "text_encoder_lr is set, but the text encoder is not trained"),
        ({"validation_epochs": 1, "validation_steps": 2}, "validation_epochs and validation_steps are both set"),
        ({"use_dora": True}, "use_dora is not offered: only LoRA is trained"),
        ({"tokenizer_name": "x"}, "tokenizer_name is not offered: the tokenizer is that of the base model"),
        ({"alpha": 1, "lora_alpha": 2}, "alpha and lora_alpha are two names of one setting"),
    ],
)
def test_each_wrong_setting_has_its_message(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_values(values)
    assert message in str(caught.value)


def test_names_may_have_dashes_and_alpha_a_second_name() -> None:
    config = RunConfig.from_values({"train-batch-size": 3, "lora-alpha": 2.5})
    assert (config.train_batch_size, config.alpha) == (3, 2.5)


def test_a_run_file_comes_back_complete(tmp_path: Path) -> None:
    config = RunConfig(
        rank=7,
        train_data_dir=Path('a "b" \\ c'),
        target_modules=("*.to_k", "all"),
        center_crop=True,
        learning_rate=3e-5,
    )
    path = tmp_path / "run.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    assert RunConfig.from_toml(path) == config
    assert all(name in path.read_text() for name in RunConfig.model_fields)


def test_a_wrong_run_file_is_named_with_the_setting(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("rank = 4\nlerning_rate = 1e-4\n")
    with pytest.raises(ConfigError, match=r"in .*run\.toml: unknown setting 'lerning_rate'. Did you mean 'learn"):
        RunConfig.from_toml(path)
    path.write_text("rank = = 4\n")
    with pytest.raises(ConfigError, match=r"run\.toml is not valid TOML: .*line 1"):
        RunConfig.from_toml(path)
    with pytest.raises(FileError, match=r"cannot read the run file .*gone\.toml"):
        RunConfig.from_toml(tmp_path / "gone.toml")


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(Exception, match="frozen"):
        RunConfig().rank = 3  # type: ignore[misc]


def test_nothing_is_both_offered_and_refused() -> None:
    assert not REFUSED.keys() & RunConfig.model_fields.keys()


def test_every_setting_has_a_description() -> None:
    assert all(field.description for field in RunConfig.model_fields.values())
