from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import lorica
from lorica.adapters import Adapter, LoRA
from lorica.errors import FileError, FormatError
from lorica.formats.storage.files import load, save
from lorica.formats.storage.header import SIZES, parse_header

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


def sample() -> dict[str, torch.Tensor]:
    tensors = {f"t{place}": torch.randn(3, place + 1).mul(4).to(dtype) for place, dtype in enumerate(DTYPES)}
    return {
        **tensors,
        "scalar": torch.tensor(2.5),
        "nothing": torch.empty(0, 4),
        "eight": torch.ones(5).to(torch.float8_e4m3fn),
    }


def raw_file(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[key].dtype == b[key].dtype and a[key].shape == b[key].shape and torch.equal(_bits(a[key]), _bits(b[key]))
        for key in a
    )


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def test_what_we_write_is_what_safetensors_reads(tmp_path: Path) -> None:
    save(sample(), tmp_path / "a.safetensors", {"b": "1", "a": "ü"})
    assert same(load_file(tmp_path / "a.safetensors"), sample_after_seed())


def sample_after_seed() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return sample()


def test_what_safetensors_writes_is_what_we_read(tmp_path: Path) -> None:
    save_file(sample(), tmp_path / "a.safetensors", {"b": "1"})
    stored = load(tmp_path / "a.safetensors")
    assert same(dict(stored.tensors), sample_after_seed())
    assert stored.metadata == {"b": "1"}
    numbers = sum(tensor.numel() for tensor in stored.tensors.values())
    assert sum(block.numel() for block in stored.blocks) == numbers


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    tensors = sample()
    backwards = dict(reversed(tensors.items()))
    save(tensors, tmp_path / "a.safetensors", {"x": "1", "y": "2"})
    save(backwards, tmp_path / "b.safetensors", {"y": "2", "x": "1"})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_metadata_of_any_text_gives_the_same_bytes_each_time(tmp_path: Path) -> None:
    odd = "".join(map(chr, range(160))) + '\u2028\u2029é\U0001f600\\"/'
    metadata = {f"{number}{odd}": odd for number in range(9)}
    for name in "ab":
        save(sample_after_seed(), tmp_path / name, metadata)
        assert load_file(tmp_path / name).keys() == sample().keys()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert load(tmp_path / "a").metadata == metadata


def test_tensors_that_share_memory_are_each_written_whole(tmp_path: Path) -> None:
    whole = torch.randn(6, 4)
    shared = {"whole": whole, "same": whole, "rows": whole[2:4], "flat": whole.view(-1)}
    save(shared, tmp_path / "a.safetensors", {})
    assert same(load_file(tmp_path / "a.safetensors"), shared)


@pytest.mark.parametrize(
    ("key", "metadata"), [("half \ud800", {}), ("a", {"half \ud800": "x"}), ("a", {"x": "\ud800"})]
)
def test_half_a_surrogate_pair_cannot_be_written(key: str, metadata: dict[str, str], tmp_path: Path) -> None:
    adapter = Adapter({"unet": {key: LoRA(torch.ones(2, 3), torch.ones(4, 2))}})
    for name in ("diffusers", "kohya"):
        with pytest.raises(FormatError, match=r"ud800.*is no Unicode text"):
            lorica.write(adapter, tmp_path / "a.safetensors", format=name, metadata=metadata)
    assert not list(tmp_path.iterdir())


def test_every_tensor_that_we_write_can_be_mapped(tmp_path: Path) -> None:
    save(
        {"a": torch.ones(3).half(), "b": torch.ones(1), "c": torch.ones(5).byte()},
        tmp_path / "a.safetensors",
        {"x": "yz"},
    )
    content = (tmp_path / "a.safetensors").read_bytes()
    for entry in parse_header(memoryview(content), "a").entries:
        assert entry.start % SIZES[entry.dtype] == 0


def test_slices_and_transposed_tensors_are_written_by_value(tmp_path: Path) -> None:
    big = torch.randn(6, 4)
    save({"slice": big[2:4], "turned": big.T}, tmp_path / "a.safetensors", {})
    stored = load(tmp_path / "a.safetensors").tensors
    assert torch.equal(stored["slice"], big[2:4])
    assert torch.equal(stored["turned"], big.T)


def test_changing_a_read_tensor_leaves_the_file(tmp_path: Path) -> None:
    save({"a": torch.ones(4)}, tmp_path / "a.safetensors", {})
    load(tmp_path / "a.safetensors").tensors["a"].zero_()
    assert torch.equal(load(tmp_path / "a.safetensors").tensors["a"], torch.ones(4))


def test_a_read_tensor_survives_a_new_file_in_its_place(tmp_path: Path) -> None:
    save({"a": torch.ones(4)}, tmp_path / "a.safetensors", {})
    old = load(tmp_path / "a.safetensors").tensors["a"]
    save({"a": torch.zeros(4)}, tmp_path / "a.safetensors", {})
    assert torch.equal(old, torch.ones(4))


def test_a_tensor_that_is_not_aligned_is_read(tmp_path: Path) -> None:
    header = {"a": entry([3], 0, 3, "U8"), "b": entry([2], 3, 11)}
    values = torch.tensor([1.5, -2.0])
    path = raw_file(tmp_path / "a.safetensors", header, b"\x01\x02\x03" + values.numpy().tobytes())
    stored = load(path)
    assert torch.equal(stored.tensors["b"], values)
    assert stored.tensors["b"].data_ptr() % 4 == 0
    assert [block.tolist() for block in stored.blocks] == [[1, 2, 3], [1.5, -2.0]]


def test_a_failed_write_leaves_the_old_file_and_nothing_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    save({"a": torch.ones(4)}, path, {})
    before = path.read_bytes()

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(FileError, match=r"cannot write .*a\.safetensors: No space left on device"):
        save({"a": torch.zeros(9)}, path, {})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.safetensors"]  # noqa: PTH208


def test_every_proper_beginning_of_a_file_is_refused(tmp_path: Path) -> None:
    save({"a": torch.ones(4), "b": torch.ones(3, dtype=torch.float16)}, tmp_path / "whole.safetensors", {"x": "y"})
    whole = (tmp_path / "whole.safetensors").read_bytes()
    for size in range(len(whole)):
        (tmp_path / "cut.safetensors").write_bytes(whole[:size])
        with pytest.raises(FileError, match=r"cut\.safetensors"):
            load(tmp_path / "cut.safetensors")


BROKEN = {
    "empty": (b"", FileError, "is empty"),
    "web page": (b"<!DOCTYPE html><html><body>log in</body>", FormatError, "web page"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", FormatError, "git lfs pull"),
    "zip": (b"PK\x03\x04\x00\x00\x08\x08 and more", FormatError, r"rename to \.bin"),
    "JSON": (b'{"error": "not found"}', FormatError, "JSON text"),
    "lying length": (struct.pack("<Q", 1 << 60) + b"{}", FileError, "claims 1152921504606846976 bytes"),
    "random": (bytes(range(200, 240)), FileError, "cut short or not a safetensors file"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_safetensors_file_is_called_by_its_name(kind: str, tmp_path: Path) -> None:
    content, error, message = BROKEN[kind]
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(error, match=message):
        load(tmp_path / "a.safetensors")


LYING = {
    "not JSON": (b"{nonsense", FormatError, "header is not JSON"),
    "not UTF-8": (b'{"\xff": 1}', FormatError, "header is not JSON"),
    "a list": ([1, 2], FormatError, "JSON list"),
    "deep": (b"[" * 100_000, FormatError, "header is not JSON"),
    "metadata numbers": ({"__metadata__": {"a": 1}}, FormatError, "metadata 'a'"),
    "metadata list": ({"__metadata__": []}, FormatError, "metadata in its header is a list"),
    "no shape": ({"a": {"dtype": "F32"}}, FormatError, "entry for 'a' is malformed"),
    "negative": ({"a": entry([-2], 0, 8)}, FormatError, "entry for 'a' is malformed"),
    "fraction": ({"a": entry([1.0], 0, 4)}, FormatError, "entry for 'a' is malformed"),  # type: ignore[list-item]
    "true": ({"a": entry([True], 0, 4)}, FormatError, "entry for 'a' is malformed"),
    "text": ({"a": "x"}, FormatError, "entry for 'a' is malformed"),
    "unknown dtype": ({"a": entry([1], 0, 4, "Q7")}, FormatError, "dtype 'Q7'"),
    "shape of other size": ({"a": entry([3], 0, 8)}, FileError, "is 12 bytes, but its place in the file has 8"),
    "enormous shape": ({"a": entry([1 << 40, 1 << 40], 0, 8)}, FileError, "which no tensor has"),
    "enormous and consistent": ({"a": entry([1 << 58], 0, 1 << 60)}, FileError, "is cut short: its tensors need"),
    "overlap": ({"a": entry([2], 0, 8), "b": entry([1], 4, 8)}, FileError, "overlap or leave a hole"),
    "nothing within another": ({"a": entry([2], 0, 8), "b": entry([0], 4, 4)}, FileError, "its header accounts for 4"),
    "shape of a smaller size": ({"a": entry([1], 0, 8)}, FileError, "is 4 bytes, but its place in the file has 8"),
    "hole in the middle": ({"a": entry([2], 0, 2, "U8"), "b": entry([1], 4, 8)}, FileError, "leave a hole between"),
    "hole at the start": ({"a": entry([1], 4, 8)}, FileError, "holds 8 bytes of tensors, but its header accounts for"),
    "rest": ({"a": entry([1], 0, 4)}, FileError, "holds 8 bytes of tensors, but its header accounts for 4"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LYING)
def test_a_header_that_lies_is_refused(kind: str, tmp_path: Path) -> None:
    header, error, message = LYING[kind]
    with pytest.raises(error, match=message):
        load(raw_file(tmp_path / "a.safetensors", header, bytes(8)))


def test_a_header_beyond_the_limit_of_the_format_is_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorica.formats.storage.header.LARGEST_HEADER", 60)
    save({"a": torch.ones(1)}, tmp_path / "a.safetensors", {"x": "y" * 60})
    with pytest.raises(FileError, match="at most 60 are allowed"):
        load(tmp_path / "a.safetensors")


def test_a_header_of_any_length_is_not_taken_for_another_kind_of_file(tmp_path: Path) -> None:
    for pad in range(600, 680):  # 640 bytes begin as a pickle does
        save({"a": torch.ones(1)}, tmp_path / "a.safetensors", {"x": "y" * pad})
        assert load(tmp_path / "a.safetensors").metadata == {"x": "y" * pad}


def test_a_pickle_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"a": Trap()}, tmp_path / "a.bin")
    with pytest.raises(FormatError, match="could run code"):
        load(tmp_path / "a.bin")
    assert not (tmp_path / "sprung").exists()


def test_plain_torch_files_are_read_also_under_state_dict(tmp_path: Path) -> None:
    for content in ({"a": torch.ones(2)}, {"state_dict": {"a": torch.ones(2)}, "epoch": 3}):
        torch.save(content, tmp_path / "a.pt")
        assert torch.equal(load(tmp_path / "a.pt").tensors["a"], torch.ones(2))


@pytest.mark.parametrize(
    ("content", "message"),
    [([torch.ones(1), 2], "holds a list"), ({"a": 3}, "holds a int under 'a'"), ({4: torch.ones(1)}, "under 4")],
)
def test_torch_files_of_something_else_are_refused(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(FormatError, match=message):
        load(tmp_path / "a.pt")


def test_broken_torch_files_are_refused(tmp_path: Path) -> None:
    for content in (b"", b"nonsense", b"PK\x03\x04broken"):
        (tmp_path / "a.bin").write_bytes(content)
        with pytest.raises((FileError, FormatError), match=r"a\.bin"):
            load(tmp_path / "a.bin")


def test_a_folder_in_place_of_a_file_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot read"):
        load(tmp_path)
