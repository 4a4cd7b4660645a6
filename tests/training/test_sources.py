"""Several data sets in one run, from end to end: who is seen, how much it counts, what is said of it, and resuming."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from lorica.cli.train import command
from lorica.data.mixture import Random, Source, mixture_members
from lorica.errors import ConfigError, DataError, StateError
from lorica.rng import generator
from lorica.training.config.config import RunConfig
from lorica.training.dataset.sources import collect_items, edits_of, groups_of
from lorica.training.loop import Loop
from lorica.training.objective.losses import Batch, sample_losses
from lorica.training.progress import Reporter
from lorica.training.run import train
from lorica.training.session import Session
from tiny_training import assert_resumes, write_pictures

Settings = Callable[..., RunConfig]
Opened = Callable[..., Session]


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Three pictures of cats, two of dogs, and four of the class that have no captions."""
    for name, count in (("cats", 3), ("dogs", 2), ("class", 4)):
        write_pictures(tmp_path / name, count)
    for path in (tmp_path / "class").glob("*.txt"):
        path.unlink()
    return tmp_path


@pytest.fixture
def mixed(folders: Path) -> tuple[dict[str, Any], ...]:
    return (
        {"folder": str(folders / "cats"), "repeats": 2},
        {"folder": str(folders / "dogs"), "loss_weight": 0.5},
        {"folder": str(folders / "class"), "is_reg": True, "loss_weight": 0.25, "caption": "a circle"},
    )


@pytest.fixture
def opened(opened: Opened) -> Opened:
    """Make sessions whose data sets are all named, without a folder of their own."""
    return partial(opened, train_data_dir=None)


def rows_of(loop: Loop, step: int, random: Random) -> list[int]:
    return loop.dataset.row(step, loop.plan, random)


def test_a_step_sees_what_the_mixture_says(opened: Opened, mixed: tuple[dict[str, Any], ...]) -> None:
    loop = opened(datasets=mixed, seed=3).loop
    sources = [
        Source(name="cats", count=3, repeats=2),
        Source(name="dogs", count=2, loss_weight=0.5),
        Source(name="class", count=4, loss_weight=0.25, prior=True),
    ]
    assert [group.source for group in loop.dataset.groups] == sources
    random = partial(generator, 3)
    for step in range(9):
        expected = mixture_members(step, 2, sources, random)
        row = loop.dataset.row(step, loop.plan, random)
        paths = [loop.dataset.examples[index].item.path for index in row]
        assert [path.parent.name for path in paths] == [entry.source for entry in expected]
        assert row == [entry.position for entry in expected]
        assert loop.dataset.loss_weights(row).tolist() == [entry.loss_weight for entry in expected]
    seen = Counter(
        loop.dataset.examples[index].item.path
        for step in range(8)
        for index in loop.dataset.row(step, loop.plan, random)
    )
    counts = {name: [count for path, count in seen.items() if path.parent.name == name] for name in ("cats", "dogs")}
    assert counts == {"cats": [2, 2, 2], "dogs": [1, 1]}  # an epoch is 6 + 2 + 8 samples, 8 steps of 2
    assert loop.plan.epoch == 8


def test_the_loss_of_a_sample_counts_as_its_set_says(
    opened: Opened, mixed: tuple[dict[str, Any], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = opened(datasets=mixed, train_batch_size=16).loop
    batches: list[Batch] = []

    def noted(recipe: Any, batch: Batch, *told: Any) -> torch.Tensor:
        batches.append(batch)
        return sample_losses(recipe, batch, *told)

    monkeypatch.setattr("lorica.training.loop.sample_losses", noted)
    report = next(loop.run(0, lambda: False))
    row = loop.dataset.row(0, loop.plan, partial(generator, 0))
    weights = torch.tensor([(1.0, 0.5, 0.25)[loop.dataset.examples[index].item.group] for index in row])
    assert sorted(weights.tolist()) == [0.25] * 8 + [0.5] * 2 + [1.0] * 6
    assert torch.equal(batches[0].counts, weights)
    with torch.no_grad(), loop.trainable.enabled(on=False):
        time = loop.recipe.sample_time(16, generator(0, 0, "time"))
        told = loop.dataset.conditioning(row, [torch.Generator()] * 16)
        plain = sample_losses(loop.recipe, batches[0]._replace(counts=None), time, told, loop.objective)
    assert report.loss == pytest.approx((plain * weights).mean().item(), rel=1e-6)
    assert report.loss < 0.8 * plain.mean().item()


def test_one_set_without_repeats_is_seen_as_ever(settings: Settings, pictures: Path, tmp_path: Path) -> None:
    plain = train(settings(max_train_steps=2), quiet=True)
    one = settings(train_data_dir=None, datasets=({"folder": pictures},), max_train_steps=2, output_dir=tmp_path / "o")
    assert train(one, quiet=True).adapter == plain.adapter


def test_a_table_is_trained_on_as_its_pictures_are(settings: Settings, pictures: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    files = sorted(pictures.glob("*.png"))
    values = {
        "photo": [{"bytes": path.read_bytes(), "path": None} for path in files],
        "note": [path.with_suffix(".txt").read_text().strip() for path in files],
    }
    features = datasets.Features({"photo": datasets.Image(), "note": datasets.Value("string")})
    datasets.Dataset.from_dict(values, features=features).to_parquet(str(tmp_path / "t.parquet"))
    options = {"max_train_steps": 2, "use_aspect_ratio_buckets": True}
    plain = train(settings(**options), quiet=True)
    table = settings(
        **options,
        train_data_dir=None,
        dataset_name=str(tmp_path / "t.parquet"),
        image_column="photo",
        caption_column="note",
        cache_dir=tmp_path / "hf",
        output_dir=tmp_path / "table",
    )
    result = train(table, quiet=True)
    assert result.adapter == plain.adapter
    with safe_open(result.adapter_path, framework="pt") as file:
        assert json.loads(file.metadata()["lorica.config"])["dataset_name"] == "t.parquet"


def test_repeats_alone_make_an_epoch_longer(opened: Opened, folders: Path) -> None:
    loop = opened(datasets=({"folder": folders / "cats", "repeats": 4},), max_train_steps=None, num_train_epochs=3).loop
    assert (loop.plan.epoch, loop.plan.steps) == (6, 18)


def test_a_bucket_holds_a_repeated_picture_as_often(opened: Opened, folders: Path) -> None:
    write_pictures(folders / "wide", 5)
    sets = ({"folder": folders / "wide", "repeats": 3}, {"folder": folders / "dogs"})
    loop = opened(datasets=sets, use_aspect_ratio_buckets=True, max_train_steps=None, num_train_epochs=2).loop
    counts = Counter(index for members in loop.dataset.buckets.values() for index in members)
    assert counts == {**dict.fromkeys(range(5), 3), 5: 1, 6: 1}
    rows = [loop.dataset.row(step, loop.plan, partial(generator, 0)) for step in range(loop.plan.epoch)]
    seen = Counter(index for row in rows for index in row)
    assert all(seen[index] >= counts[index] for index in counts)
    assert sum(seen.values()) == 18  # 17 places; the odd one of the squares' 11 is filled by a second sight


def test_class_pictures_are_half_of_all_samples(opened: Opened, folders: Path) -> None:
    session = opened(
        train_data_dir=folders / "cats",
        instance_prompt="a photo of sks cat",
        trigger_word="sks",
        with_prior_preservation=True,
        class_data_dir=folders / "class",
        class_prompt="a photo of a cat",
        num_class_images=2,
        prior_loss_weight=0.5,
    )
    own, others = session.loop.dataset.groups
    assert (own.source.name, own.source.count, own.edits.trigger) == ("cats", 3, "sks")
    assert others.source == Source(name="class pictures", count=2, loss_weight=0.5, prior=True)
    assert others.edits.trigger == ""
    captions = [example.item.caption for example in session.loop.dataset.examples]
    assert captions == ["a photo of sks cat"] * 3 + ["a photo of a cat"] * 2
    rows = [
        index for step in range(3) for index in session.loop.dataset.row(step, session.loop.plan, partial(generator, 0))
    ]
    assert sorted(index >= 3 for index in rows) == [False] * 3 + [True] * 3


def test_the_names_of_the_dreambooth_script_are_understood() -> None:
    config = RunConfig.from_values({"instance-data-dir": "dogs", "instance_prompt": "a sks dog"})
    assert (config.train_data_dir, config.instance_prompt) == (Path("dogs"), "a sks dog")


def test_captions_of_one_set_are_changed_in_its_own_way(settings: Settings, mixed: tuple[dict[str, Any], ...]) -> None:
    cats, dogs, others = mixed
    config = settings(
        train_data_dir=None,
        datasets=({**cats, "trigger_word": "zorblin", "shuffle_caption": True}, {**dogs, "caption_suffix": ""}, others),
        trigger_word="plonk",
        caption_suffix="in oil",
        caption_dropout=0.1,
    )
    edits = [edits_of(one) for one in config.sets()]
    assert [edit.trigger for edit in edits] == ["zorblin", "plonk", ""]
    assert [edit.suffix for edit in edits] == ["in oil", "", ""]
    assert [edit.shuffle for edit in edits] == [True, False, False]
    assert [edit.dropout for edit in edits] == [0.1] * 3


def test_the_text_that_is_drawn_is_that_of_the_set(opened: Opened, folders: Path) -> None:
    sets = ({"folder": folders / "cats"}, {"folder": folders / "dogs", "caption_prefix": "bright"})
    texts = opened(datasets=sets).loop.dataset
    drawn = [texts.texts.draw(example.item, torch.Generator()) for example in texts.examples]
    assert set(texts.texts.encoded) == set(drawn)  # also of captions that two sets have in common
    assert not texts.texts.is_open
    assert drawn == [
        f"{'bright ' * (number > 2)}a large {c} circle"
        for number, c in enumerate(("blue", "green", "red", "green", "red"))
    ]


def test_a_run_with_several_sets_resumes_bit_for_bit(
    settings: Settings, mixed: tuple[dict[str, Any], ...], tmp_path: Path
) -> None:
    bound = partial(settings, train_data_dir=None, datasets=mixed)
    result = assert_resumes(bound, tmp_path, train_batch_size=3, stop=2, max_train_steps=5)
    with safe_open(result.adapter_path, framework="pt") as file:
        told = json.loads(file.metadata()["lorica.config"])["datasets"]
    assert [row["train_data_dir"] for row in told] == ["cats", "dogs", "class"]
    again = RunConfig.from_toml(result.output_dir / "run.toml")
    assert [row.model_dump() for row in again.datasets] == [row.model_dump() for row in bound().datasets]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repeats": 3}, "data set 1, repeats was 2, is 3"),
        ({"loss_weight": 0.5}, "data set 1, loss_weight was 1.0, is 0.5"),
        ({"name": "more cats"}, "data set 1, name was 'cats', is 'more cats'"),
        ({"trigger_word": "zorblin"}, "data set 1, trigger_word was '', is 'zorblin'"),
    ],
)
def test_another_mixture_is_not_resumed(
    settings: Settings, mixed: tuple[dict[str, Any], ...], change: dict[str, Any], message: str
) -> None:
    train(settings(train_data_dir=None, datasets=mixed, max_train_steps=1), quiet=True)
    changed = ({**mixed[0], **change}, *mixed[1:])
    with pytest.raises(StateError, match=message):
        train(settings(train_data_dir=None, datasets=changed, resume_from_checkpoint="latest"), quiet=True)


def test_tables_of_a_run_file_and_options_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        'rank = 5\n[[datasets]]\nfolder = "cats"\nnum-repeats = 4\n[[datasets]]\nimage_dir = "class"\nis_reg = true\n'
    )
    from_file = RunConfig.from_toml(tmp_path / "run.toml").datasets
    values = command.make_context(
        "train", ["--datasets", "folder=cats, repeats=4", "--datasets", '{"folder": "class", "is_reg": true}']
    ).params["datasets"]
    assert RunConfig.from_values({"datasets": values}).datasets == from_file
    assert [(row.title, row.repeats, row.is_reg) for row in from_file] == [("cats", 4, False), ("class", 1, True)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"datasets": ["folder=cats,repats=2"]}, "unknown setting 'repats'. Did you mean 'repeats'"),
        ({"datasets": ["cats"]}, "datasets takes NAME=VALUE,NAME=VALUE such as folder=cats,repeats=4"),
        ({"datasets": ["{cats"]}, "is not valid JSON"),
        ({"datasets": ["repeats=3"]}, "a data set names no pictures: give its folder"),
        ({"datasets": ["folder=a,repeats=0"]}, "repeats: Input should be greater than 0"),
        ({"datasets": ["folder=a,folder=b,image_dir=c"]}, "two names of one setting"),
        ({"datasets": ["folder=a,dataset_name=b"]}, "a folder and a dataset_name: leave one out"),
        ({"train_data_dir": "a", "dataset_name": "b"}, "are both set: leave one out, or add it to datasets"),
        ({"dataset_config_name": "b"}, "dataset_config_name is set without dataset_name"),
        ({"no_cache": True, "cache_latents": True}, "no_cache and cache_latents contradict each other"),
        ({"huber_schedule": "snr"}, "huber_schedule is set, but mse has no such corner"),
        ({"with_prior_preservation": True}, "with_prior_preservation needs pictures of the class"),
        ({"class_data_dir": "class"}, "class_data_dir is set, but no class pictures are seen"),
    ],
)
def test_settings_that_say_nothing_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_values(values)


def test_sets_that_do_not_go_together_are_refused_before_anything_is_loaded(settings: Settings, folders: Path) -> None:
    def made(*sets: dict[str, Any]) -> None:
        config = settings(train_data_dir=None, datasets=sets)
        found = collect_items(config, 0, None, Reporter(quiet=True))
        groups_of(found.sets, found.items)

    cats, dogs = {"folder": folders / "cats"}, {"folder": folders / "dogs"}
    with pytest.raises(ConfigError, match="no pictures are named: give a folder with --train_data_dir"):
        made()
    with pytest.raises(ConfigError, match="some data sets have a weight and others have none"):
        made({**cats, "weight": 2}, dogs)
    with pytest.raises(ConfigError, match="two data sets are called 'cats'; give each a name of its own"):
        made(cats, cats)
    with pytest.raises(ConfigError, match="there are only regularisation sets"):
        made({**cats, "is_reg": True})
    made({**cats, "weight": 2}, {**dogs, "weight": 1})


def test_too_few_class_pictures_are_told(settings: Settings, folders: Path) -> None:
    config = settings(with_prior_preservation=True, class_data_dir=folders / "dogs", num_class_images=3)
    with pytest.raises(DataError, match=r"2 class pictures in .*dogs, num_class_images asks for 3.*lorica generate"):
        collect_items(config, 0, None, Reporter(quiet=True))


def test_the_shares_are_said(
    settings: Settings, mixed: tuple[dict[str, Any], ...], capsys: pytest.CaptureFixture[str]
) -> None:
    train(settings(train_data_dir=None, datasets=mixed, max_train_steps=1))
    said = capsys.readouterr().err
    assert (
        "cats: 3 pictures, 37.5% of the samples; dogs: 2 pictures, 12.5% of the samples, loss times 0.5; class" in said
    )


def test_folders_of_kohya_keep_their_repeats(settings: Settings, tmp_path: Path) -> None:
    for name, count in (("10_sks cat", 2), ("3_dog", 3), ("plain", 1)):
        (tmp_path / "kohya").mkdir(exist_ok=True)
        write_pictures(tmp_path / "kohya" / name, count)
    said: list[str] = []
    reporter = Reporter(quiet=True)
    reporter.say = said.append
    found = collect_items(settings(train_data_dir=tmp_path / "kohya"), 0, None, reporter)
    groups = groups_of(found.sets, found.items)
    assert [(group.source.name, group.source.count, group.source.repeats) for group in groups] == [
        ("kohya/10_sks cat", 2, 10), ("kohya/3_dog", 3, 3), ("kohya", 1, 1)
    ]  # fmt: skip
    assert any("10_sks cat 10 times, 3_dog 3 times" in line for line in said)
    alone = collect_items(settings(train_data_dir=tmp_path / "kohya" / "3_dog"), 0, None, reporter)
    assert [one.repeats for one in alone.sets] == [3]


def test_repeats_of_folders_do_not_count_beside_a_weight(settings: Settings, tmp_path: Path) -> None:
    write_pictures(tmp_path / "4_cats", 2)
    said: list[str] = []
    reporter = Reporter(quiet=True)
    reporter.say = said.append
    config = settings(train_data_dir=None, datasets=({"folder": tmp_path / "4_cats", "weight": 2},))
    assert [one.repeats for one in collect_items(config, 0, None, reporter).sets] == [1]
    assert any("(4_cats) do not count: the data set has a weight" in line for line in said)


def test_other_folders_of_the_run_below_the_pictures_are_not_trained_on(opened: Opened, pictures: Path) -> None:
    write_pictures(pictures / "class", 2)
    write_pictures(pictures / "held", 2)
    write_pictures(pictures / "out", 2)
    session = opened(
        train_data_dir=pictures,
        validation_data_dir=pictures / "held",
        output_dir=pictures / "out",
        with_prior_preservation=True,
        class_data_dir=pictures / "class",
        class_prompt="a circle",
        num_class_images=2,
    )
    assert [group.source.count for group in session.loop.dataset.groups] == [5, 2]
