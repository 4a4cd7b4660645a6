"""The hashes that a file in Kohya's format has of itself, held against what their inventors hash."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import safe_open, save

import lorica
from lorica.adapters import Adapter, LoRA
from lorica.formats import FORMATS

START, LENGTH = 0x100000, 0x10000
TRAINING = {"ss_output_name": 'täst "x"\n'}
PATHS = ("a.to_q", "b.to_k", "c.to_v")


def adapter(width: int) -> Adapter:
    """Return one of float32 layers that lie behind each other in the file, the 64 KiB across several of them."""
    torch.manual_seed(3)
    layers = {
        path: LoRA(torch.randn(5 + place, width), torch.randn(6007, 5 + place), 3.0) for place, path in enumerate(PATHS)
    }
    return Adapter({"unet": layers}, {**TRAINING, "modelspec.title": "ü"})


def stored(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as content:
        return content.metadata()


def test_a_file_in_kohyas_format_has_the_hashes_of_itself(tmp_path: Path) -> None:
    value = adapter(43_003)
    tensors, _ = FORMATS["kohya"].compose(value, None)
    copy = save({key: tensor.contiguous() for key, tensor in tensors.items()}, TRAINING)
    begin = 8 + int.from_bytes(copy[:8], "little")
    found = stored(lorica.write(value, tmp_path / "a.safetensors", format="kohya"))
    assert len(copy) > START + LENGTH
    assert found["sshs_model_hash"] == sha256(copy[begin:]).hexdigest()
    assert found["sshs_legacy_hash"] == sha256(copy[START : START + LENGTH]).hexdigest()[:8]


def test_a_file_under_a_mebibyte_has_the_legacy_hash_of_nothing(tmp_path: Path) -> None:
    found = stored(lorica.write(adapter(43), tmp_path / "a.safetensors", format="kohya"))
    assert found["sshs_legacy_hash"] == sha256(b"").hexdigest()[:8]


def test_files_in_other_formats_have_none(tmp_path: Path) -> None:
    found = stored(lorica.write(adapter(43), tmp_path / "a.safetensors", format="diffusers"))
    assert not any(name.startswith("sshs_") for name in found)


def test_a_header_over_a_mebibyte_leaves_no_legacy_hash(tmp_path: Path) -> None:
    value = adapter(43).with_metadata({"ss_long": "x" * START})
    found = stored(lorica.write(value, tmp_path / "a.safetensors", format="kohya"))
    assert len(found["sshs_model_hash"]) == 64
    assert "sshs_legacy_hash" not in found
