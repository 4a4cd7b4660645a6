"""What is remembered of files that are laid out alike: names and shapes, and nothing that is one file's own."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import lorica
from lorica.errors import FormatError
from lorica.formats import layout
from lorica.formats.dialects import naming as named
from lorica.formats.kinds import Forms
from lorica.formats.layout import LAYOUTS, Layouts
from lorica.formats.storage.files import Stored, peek
from lorica.models import FAMILIES

NAMES = [f"lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_{part}" for part in "qk"]
WIDTH, RANK = 640, 3


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    LAYOUTS.forget()
    yield
    LAYOUTS.forget()


def file_of(alpha: float = 1.5, rank: int = RANK, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name in NAMES:
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, WIDTH).to(dtype)
        tensors[f"{name}.lora_up.weight"] = torch.randn(WIDTH, rank).to(dtype)
    return tensors


def layout_of(tensors: dict[str, Tensor]) -> layout.Layout:
    return LAYOUTS.of(Stored("the file", tensors))


def layers_of(tensors: dict[str, Tensor]) -> list[lorica.AdapterLayer]:
    return [layer for _, _, layer in lorica.read(tensors).layers()]


def test_a_file_that_is_laid_out_like_another_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = lorica.read(file_of())
    monkeypatch.setattr(named, "detect", None)
    monkeypatch.setattr(layout, "group", None)
    again = lorica.read(file_of())
    assert again.report is not None
    assert first.report is not None
    assert replace(again.report, spelling=None) == replace(first.report, spelling=None)


def test_each_file_has_its_own_tensors_and_alphas() -> None:
    for alpha in (1.5, 0.5, 0.0, 1.5):
        tensors = file_of(alpha)
        for name, layer in zip(NAMES, layers_of(tensors), strict=True):
            assert layer.tensors["down"] is tensors[f"{name}.lora_down.weight"]
            assert layer.tensors["up"] is tensors[f"{name}.lora_up.weight"]
            assert layer.alpha == (alpha or RANK)


@pytest.mark.parametrize(
    "other",
    [
        file_of(rank=5),
        file_of(dtype=torch.float16),
        dict(reversed(file_of().items())),
        dict(list(file_of().items())[3:]),
        {key: file_of()[key] for key in sorted(file_of(), key=lambda key: key.partition(".")[0] == NAMES[0])},
    ],
)
def test_another_rank_dtype_order_or_number_of_keys_is_another_layout(other: dict[str, Tensor]) -> None:
    first = layout_of(file_of())
    assert layout_of(file_of(2.5)) is first
    assert layout_of(other) is not first
    layers = layers_of(other)
    LAYOUTS.forget()
    assert layers == layers_of(other)


def test_one_tensor_of_another_dtype_is_another_layout() -> None:
    tensors = file_of()
    first = layout_of(tensors)
    key = f"{NAMES[1]}.lora_up.weight"
    with pytest.raises(FormatError, match=f"{key}.*int32"):
        lorica.read({**tensors, key: tensors[key].int()})
    assert layout_of(tensors) is first


def test_a_dtype_that_all_have_is_not_taken_for_that_of_the_first() -> None:
    tensors = {name: torch.zeros(2) for name in "ab"}
    mixed = {**tensors, "b": tensors["b"].half()}
    assert Forms.of(tensors) != Forms.of(mixed)
    assert len(set(Forms.of(tensors).each())) == 1
    assert len(set(Forms.of(mixed).each())) == 2


def test_a_value_that_is_not_finite_is_found_in_a_file_of_a_known_layout() -> None:
    tensors = file_of()
    lorica.read(tensors)
    key = f"{NAMES[0]}.lora_up.weight"
    with pytest.raises(FormatError, match=f"{key}.*NaN"):
        lorica.read({**tensors, key: torch.full_like(tensors[key], float("nan"))})


def test_a_refusal_is_the_same_each_time_and_names_the_file_at_hand(tmp_path: Path) -> None:
    tensors = {**file_of(), f"{NAMES[0]}x.alpha": torch.ones(())}
    messages: list[str] = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}.safetensors"
        save_file(tensors, path)
        with pytest.raises(FormatError) as caught:
            lorica.read(path)
        assert str(path) in str(caught.value)
        messages.append(str(caught.value).replace(str(path), "FILE"))
    assert messages[0] == messages[1]


def test_two_spellings_of_one_tensor_are_refused_each_time() -> None:
    tensors = {**file_of(), f"{NAMES[0]}.lora_A.weight": torch.randn(RANK, WIDTH)}
    for _ in range(2):
        with pytest.raises(FormatError, match="are both the down of"):
            lorica.read(tensors)


def test_a_target_counts_though_the_layout_is_known() -> None:
    tensors = file_of()
    assert lorica.read(tensors).report.unused == ()  # type: ignore[union-attr]
    report = lorica.read(tensors, target=FAMILIES["flux_dev"].target, strict=False).report
    assert report is not None
    assert {left.key for left in report.unused} == set(tensors)


def test_an_embedding_is_each_files_own() -> None:
    for _ in range(2):
        vectors = torch.randn(2, 7)
        adapter = lorica.read({**file_of(), "bundle_emb.word.string_to_param.*": vectors})
        assert adapter.embeddings["word"]["text_encoder"] is vectors


def test_no_tensor_of_a_file_is_kept() -> None:
    tensors = file_of()
    alive = [weakref.ref(tensor) for tensor in tensors.values()]
    lorica.read(tensors)
    del tensors
    gc.collect()
    assert [each() for each in alive] == [None] * len(alive)


def test_a_file_of_a_known_layout_is_written_as_it_was_spelled(tmp_path: Path) -> None:
    for alpha in (1.5, 2.5):
        tensors = file_of(alpha)
        written = load_file(lorica.write(lorica.read(tensors), tmp_path / "a.safetensors", format="kohya"))
        assert written.keys() == tensors.keys()
        assert all(torch.equal(written[key], tensor) for key, tensor in tensors.items())


def test_a_file_that_is_only_looked_into_is_laid_out_by_its_own_kind_of_tensor(tmp_path: Path) -> None:
    path = lorica.write(lorica.read(file_of()), tmp_path / "a.safetensors", format="kohya")
    assert lorica.inspect(path, norms=False, hashes=False).ranks == {RANK: 2}
    assert lorica.read(path) == lorica.read(load_file(path))
    assert LAYOUTS.of(peek(path)) is LAYOUTS.of(peek(path))


def test_the_last_layouts_are_kept_and_no_more() -> None:
    layouts = Layouts(2)
    files = [Stored("the file", file_of(rank=rank)) for rank in (2, 3, 4)]
    first, second = layouts.of(files[0]), layouts.of(files[1])
    assert layouts.of(files[0]) is first  # and is now the last that was used
    layouts.of(files[2])
    assert layouts.of(files[0]) is first
    assert layouts.of(files[1]) is not second


def test_several_threads_may_read_at_once() -> None:
    files = [file_of(alpha=1 + number, rank=1 + number % 11) for number in range(44)]
    with ThreadPoolExecutor(4) as threads:
        read = list(threads.map(lorica.read, files))
    for number, adapter in enumerate(read):
        assert {layer.alpha for _, _, layer in adapter.layers()} == {1.0 + number}
        assert {layer.rank for _, _, layer in adapter.layers()} == {1 + number % 11}
