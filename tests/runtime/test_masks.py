"""What a mask may be: a tensor, a picture or a file, from 0 to 1; and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import lorica
from lorica.errors import ConfigError, FileError, LoRAError, ShapeError, UnknownNameError
from sample_layers import make_lora, one

LEFT = torch.zeros(12, 20)
LEFT[:, :10] = 1


class Picture(nn.Module):
    """A model whose only layer acts on every point of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 5, 1)

    def forward(self, sample: Tensor) -> Tensor:
        return self.layer(sample)


def make() -> tuple[lorica.Loras, Picture, Tensor]:
    torch.manual_seed(0)
    model = Picture()
    loras = lorica.attach(model)
    for rank, name in ((2, "a"), (3, "b")):
        loras.load(one(make_lora(model.layer, rank=rank), "layer"), name=name, strength=0.5)
    return loras, model, torch.randn(2, 3, 6, 10)


def test_masks_may_be_pictures_and_files_and_booleans(tmp_path: Path) -> None:
    loras, model, x = make()
    free, picture, file = model(x), Image.fromarray((LEFT * 255).byte().numpy()), tmp_path / "left.png"
    picture.save(file)
    found: list[Tensor] = []
    for mask in (LEFT, LEFT.bool(), LEFT.half(), picture, picture.convert("RGB"), file, str(file)):
        with loras.regions({"a": mask}):
            found.append(model(x))
    assert all(torch.equal(limited, found[0]) for limited in found)
    assert not torch.equal(found[0], free)


def test_a_mask_does_not_follow_its_source() -> None:
    loras, model, x = make()
    with loras.regions({"a": LEFT}):
        expected = model(x)
    mask = LEFT.clone()
    loras.regions({"a": mask})
    mask.fill_(1)
    assert torch.equal(model(x), expected)


WRONG: dict[str, tuple[Any, type[LoRAError], str]] = {
    "name": ({"c": LEFT}, UnknownNameError, "unknown adapter 'c'.*Known: a, b"),
    "axes": ({"a": LEFT[None]}, ShapeError, r"the mask of 'a' has the shape \(1, 12, 20\); expected \(height, width\)"),
    "empty": ({"a": LEFT[:0]}, ShapeError, r"has the shape \(0, 20\)"),
    "value": ({"a": LEFT * 255}, ConfigError, "between 0.*and 1.*got values from 0 to 255"),
    "nan": ({"a": LEFT / 0}, ConfigError, "between 0"),
    "type": ({"a": [[1.0]]}, ConfigError, "must be a tensor, a picture or a file, got a list"),
    "file": ({"a": "nowhere.png"}, FileError, "the mask of 'a' cannot be read: nowhere.png"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_mask_is_refused_and_changes_nothing(case: str) -> None:
    loras, model, x = make()
    loras.regions({"b": LEFT})
    before = model(x)
    masks, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        loras.regions(masks)
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_elsewhere_must_be_finite(value: float) -> None:
    loras, _, _ = make()
    with pytest.raises(ConfigError, match="elsewhere must be a finite number"):
        loras.regions({"a": LEFT}, elsewhere=value)
