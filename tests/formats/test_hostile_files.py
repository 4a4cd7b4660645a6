"""Small files that would cost much, and files whose numbers and names nothing should trust: one clear error each."""

from __future__ import annotations

import json
import os
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

import lorica
from lorica.errors import FileError, FormatError, LoRAError, shortened
from lorica.formats.storage.files import load
from lorica.models import Target

DATA = bytes(24)
TENSOR: dict[str, Any] = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
NOTHING: dict[str, Any] = {"dtype": "F32", "shape": [0], "data_offsets": [24, 24]}
FLAWED: dict[str, bytes] = {
    "half a surrogate pair in a key": json.dumps({"a\ud800": TENSOR}).encode(),
    "half a surrogate pair in the metadata": json.dumps({"a": TENSOR, "__metadata__": {"b": "\ud800"}}).encode(),
    "UTF-16": json.dumps({"a": TENSOR}).encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + json.dumps({"a": TENSOR}).encode(),
    "a field twice": b'{"a":{"dtype":"F32","dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}',
    "metadata twice": b'{"__metadata__":{},"__metadata__":{},"a":' + json.dumps(TENSOR).encode() + b"}",
    "deep": b'{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24],"x":' + b"[" * 300 + b"]" * 300 + b"}}",
    "NaN": b'{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24],"x":NaN}}',
    "minus nothing": b'{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[-0,24]}}',
    "70 bits beside nothing": json.dumps({"a": TENSOR, "b": {**NOTHING, "shape": [1 << 70, 0]}}).encode(),
    "many bits beside nothing": json.dumps({"a": TENSOR, "b": {**NOTHING, "shape": [1 << 40, 1 << 40, 0]}}).encode(),
}  # fmt: skip


def written(path: Path, header: bytes, data: bytes = DATA) -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


@pytest.mark.parametrize("kind", FLAWED)
def test_what_safetensors_refuses_is_refused_here(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", FLAWED[kind])
    with pytest.raises(SafetensorError), safe_open(str(path), "np"):
        pass
    with pytest.raises(LoRAError, match=r"a\.safetensors"):
        load(path)


@pytest.mark.parametrize("shape", [[1] * 63 + [2, 3], [1 << 62, 2, 0]])
def test_shapes_that_no_tensor_has_are_refused_although_safetensors_takes_them(
    shape: list[int], tmp_path: Path
) -> None:
    size = 24 if 0 not in shape else 0
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}
    with pytest.raises(FileError, match="which no tensor has"):
        load(written(tmp_path / "a.safetensors", json.dumps({"a": entry}).encode(), bytes(size)))


def test_sizes_are_bounded_before_they_are_multiplied(tmp_path: Path) -> None:
    entry = {**TENSOR, "shape": [1 << 60] * 30_000}
    path = written(tmp_path / "a.safetensors", json.dumps({"a": entry}).encode())
    start = time.perf_counter()
    with pytest.raises(FileError, match="of 30000 dimensions"):
        load(path)
    assert time.perf_counter() - start < 2  # the product alone took eight seconds


def test_a_file_of_hundreds_of_thousands_of_tensors_is_refused(tmp_path: Path) -> None:
    header = {str(place): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for place in range(65_537)}
    with pytest.raises(FileError, match="has 65537 tensors; at most 65536"):
        load(written(tmp_path / "a.safetensors", json.dumps(header).encode(), b""))


@pytest.mark.parametrize("name", ["a.safetensors", "a.bin"])
def test_a_pipe_is_refused_and_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    for read in (lorica.read, lorica.inspect):
        with pytest.raises(FileError, match="a pipe or a device"):
            read(str(tmp_path / name))


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1 << 20)}, tmp_path / "a.bin")
    with zipfile.ZipFile(tmp_path / "a.bin") as plain, zipfile.ZipFile(tmp_path / "b.bin", "w", 8) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert load(tmp_path / "a.bin").tensors["a"].numel() == 1 << 20
    with pytest.raises(FileError, match="may be made to fill the memory"):
        load(tmp_path / "b.bin")


def test_numbers_that_are_repeated_and_not_stored_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1).expand(1 << 16, 1 << 16)}, tmp_path / "a.bin")
    with pytest.raises(FileError, match="repeated, not stored"):
        load(tmp_path / "a.bin")
    one = torch.ones(3000)
    torch.save({f"{place}": one for place in range(9)}, tmp_path / "b.bin")
    with pytest.raises(FileError, match="repeated, not stored"):
        load(tmp_path / "b.bin")


def test_a_state_dict_that_holds_itself_is_refused(tmp_path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["state_dict"] = endless
    torch.save(endless, tmp_path / "a.bin")
    for source in (tmp_path / "a.bin", endless):
        with pytest.raises(FormatError, match="holds a dict under 'state_dict'"):
            lorica.read(source)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_tensors_that_are_no_plain_numbers_are_refused() -> None:
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    with pytest.raises(FormatError, match="is nested"):
        lorica.read({"unet.a.lora_A.weight": nested})


PATHS = {
    "a name that is too long": ("x" * 300, "is no path that can be used"),
    "an unknown user": ("~nobody-of-this-name/x.safetensors", "is no path that can be used"),
    "NUL": ("a\0b.safetensors", "is no path that can be used"),
    "half a surrogate pair": ("a\ud800.safetensors", "is no path that can be used"),
    "out of a repository": ("user/repo/../../../x", "there is no file"),
}


@pytest.mark.parametrize("kind", PATHS)
def test_names_of_no_file_are_an_error_of_ours(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name, message = PATHS[kind]
    with pytest.raises(FileError, match=message):
        lorica.read(name)


@pytest.mark.parametrize("name", ["a\0b.safetensors", "~nobody-of-this-name/x.safetensors", "x" * 300 + ".safetensors"])
def test_names_that_cannot_be_written_are_an_error_of_ours(name: str) -> None:
    adapter = lorica.read({"unet.a.lora_A.weight": torch.ones(2, 3), "unet.a.lora_B.weight": torch.ones(4, 2)})
    with pytest.raises(FileError, match="is no path that can be used"):
        lorica.write(adapter, name)


def test_what_is_no_adapter_file_is_called_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "gone.safetensors").symlink_to(tmp_path / "away")
    (tmp_path / "loop.safetensors").symlink_to(tmp_path / "loop.safetensors")
    (tmp_path / "a.gguf").write_bytes(b"GGUF\x03\0\0\0" + bytes(90))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("lora.safetensors", b"")
    (tmp_path / "run" / "checkpoint-500").mkdir(parents=True)
    (tmp_path / "run" / "checkpoint-1000").mkdir()
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model_index.json").write_text("{}")
    told: dict[str | Path, str] = {
        tmp_path / "gone.safetensors": "is a link to .*away, which leads to no file",
        tmp_path / "loop.safetensors": "is a link to .*loop.safetensors, which leads to no file",
        tmp_path / "a.gguf": "it is a GGUF file",
        tmp_path / "a.zip": "it is a zip archive: unpack it",
        tmp_path / "run": "holds 2 checkpoints, and no adapter. Name one: .*checkpoint-1000",
        tmp_path / "base": "holds a whole model",
        "https://civitai.com/models/1": "is a link to a web page.* Download the file first",
        "https://huggingface.co/a/b/blob/main/c/d.safetensors": "Name it as on the Hub: a/b/c/d.safetensors",
    }
    for source, message in told.items():
        with pytest.raises(LoRAError, match=message):
            lorica.read(source)


ALPHAS = ["Infinity", "-Infinity", "NaN", "1e400", "null", "[8]", '"8"', "true", "1" + "0" * 400]


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("where", ["unet.lora_alpha", "lora_alpha", "unet.alpha_pattern", "alpha of one"])
def test_an_alpha_that_is_no_number_is_refused(alpha: str, where: str, tmp_path: Path) -> None:
    text = f'{{"{where}": {{"a": {alpha}}}}}' if "pattern" in where else f'{{"{where}": {alpha}}}'
    metadata = {"alpha": alpha.strip('"') + "x"} if where == "alpha of one" else {"lora_adapter_metadata": text}
    tensors = {"unet.a.lora_A.weight": torch.ones(2, 3), "unet.a.lora_B.weight": torch.ones(4, 2)}
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    with pytest.raises(FormatError, match=r"metadata.*expected a finite number"):
        lorica.read(tmp_path / "a.safetensors")


def test_an_alpha_that_only_the_header_tells_counts(tmp_path: Path) -> None:
    tensors = {"unet.a.lora_A.weight": torch.ones(2, 3), "unet.a.lora_B.weight": torch.ones(4, 2)}
    save_file(tensors, tmp_path / "a.safetensors", {"alpha": "8"})
    assert lorica.read(tmp_path / "a.safetensors").components["unet"]["a"].alpha == 8


def test_names_in_messages_are_escaped_and_shortened(tmp_path: Path) -> None:
    save_file({"x" * 100_000 + ".lora_A.weight": torch.ones(1, 1)}, tmp_path / "a.safetensors")
    save_file({"\x1b[31mred\x07\u202e.lora_A.weight": torch.ones(1, 1)}, tmp_path / "b.safetensors")
    with pytest.raises(FormatError) as long:
        lorica.read(tmp_path / "a.safetensors")
    assert len(str(long.value)) < 3000
    with pytest.raises(FormatError, match=r"\\x1b\[31mred\\x07\\u202e") as strange:
        lorica.read(tmp_path / "b.safetensors")
    assert "\x1b" not in str(strange.value)
    assert shortened("a\tb\nc ü 漢") == "a\tb\nc ü 漢"


@pytest.mark.parametrize("flag", [torch.ones(2), torch.ones(0)])
def test_a_flag_of_several_numbers_is_refused(flag: torch.Tensor) -> None:
    tensors = {"lora_unet_a.oft_R.weight": torch.ones(3, 6), "lora_unet_a.oft_R.scaled_oft": flag}
    with pytest.raises(FormatError, match=r"scaled_oft'.*expected one number"):
        lorica.read(tensors, target=Target("a model", {"unet": {"a": (5, 12)}}))
