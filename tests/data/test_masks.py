"""Masks come from a folder or the alpha channel, and lie on the latents where they lie on the picture."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lorica.data.images import View, fit, to_tensor
from lorica.data.masks import MaskSource, area_weights, latent_mask, load_mask, mask_source, open_mask, stack_areas
from lorica.data.picture_files import find_masks, find_pictures, is_mask, mask_folders
from lorica.errors import ConfigError, DataError

NAME = Path("folder/mask/name.png")


def encoded(picture: Image.Image, kind: str = "png", **options: object) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_mask_lies_beside_the_picture_under_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "mask").mkdir()
    (tmp_path / "mask" / "a.webp").touch()
    (tmp_path / "mask" / "a.txt").touch()
    pictures = [tmp_path / "a.jpg", tmp_path / "b.jpg", tmp_path / "deeper" / "a.jpg"]
    assert find_masks(pictures) == {tmp_path / "a.jpg": tmp_path / "mask" / "a.webp"}
    assert mask_folders(pictures) == [tmp_path / "mask"]
    for path in (pictures[0], tmp_path / "b.png"):
        path.touch()
    assert find_pictures(tmp_path) == [tmp_path / "a.jpg", tmp_path / "b.png"]
    assert is_mask(tmp_path / "mask" / "a.webp", tmp_path)
    assert is_mask(tmp_path / "deeper" / "mask" / "a.webp", tmp_path)
    assert not is_mask(tmp_path / "mask.png", tmp_path)
    assert not is_mask(tmp_path / "mask", tmp_path)
    assert not is_mask(tmp_path / "mask" / "a.webp", tmp_path / "mask")
    (tmp_path / "mask" / "a.png").touch()
    with pytest.raises(DataError, match=r"two masks of one picture, .*a\.png and .*a\.webp"):
        find_masks(pictures)


def test_white_counts_and_transparent_does_not() -> None:
    file = Image.new("RGBA", (5, 3), (255, 255, 255, 255))
    file.putpixel((1, 2), (255, 255, 255, 0))
    file.putpixel((3, 0), (0, 0, 0, 255))
    mask = np.asarray(load_mask(encoded(file), NAME, (5, 3)))
    assert mask[2, 1] == mask[0, 3] == 0
    assert (mask == 255).sum() == 13


def test_a_mask_of_the_same_shape_is_resized_by_area() -> None:
    file = Image.new("L", (6, 4), 0)
    file.putpixel((2, 0), 255)
    mask = np.asarray(load_mask(encoded(file), NAME, (3, 2)))
    assert mask.tolist() == [[0, 64, 0], [0, 0, 0]]  # one of four pixels


def test_a_mask_is_turned_as_its_exif_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = Image.new("L", (5, 3), 0)
    file.putpixel((0, 0), 255)  # becomes the right upper corner
    mask = np.asarray(load_mask(encoded(file, exif=exif), NAME, (3, 5)))
    assert mask[0, 2] == 255
    assert mask.sum() == 255
    turned = Image.new("RGBA", (5, 3), (9, 9, 9, 255))
    turned.putpixel((0, 0), (9, 9, 9, 7))
    content = encoded(turned, exif=exif)
    assert open_mask(MaskSource(content, NAME, is_alpha=True), (3, 5)).getpixel((2, 0)) == 7


def test_another_shape_or_a_broken_file_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"mask/name\.png has 6x4 pixels but its picture 9x4"):
        load_mask(encoded(Image.new("L", (6, 4))), NAME, (9, 4))
    with pytest.raises(DataError, match=r"name\.png is not a picture"):
        load_mask(b"nothing", NAME, (6, 4))
    with pytest.raises(DataError, match=r"name\.png is broken or cut short"):
        open_mask(MaskSource(encoded(Image.new("RGBA", (60, 40), (1, 2, 3, 4)))[:60], NAME, is_alpha=True), (60, 40))


def test_the_alpha_channel_is_a_mask_and_without_one_there_is_none() -> None:
    picture = Image.new("RGBA", (5, 3), (200, 0, 0, 255))
    picture.putpixel((4, 1), (200, 0, 0, 51))
    source = mask_source(NAME, encoded(picture), None)
    assert source == MaskSource(encoded(picture), NAME, is_alpha=True)
    mask = np.asarray(open_mask(source, (5, 3)))
    assert mask[1, 4] == 51
    assert (mask == 255).sum() == 14
    assert mask_source(NAME, encoded(Image.new("RGB", (5, 3))), None) is None
    with pytest.raises(DataError, match=r"name\.png is not a picture that can be read"):
        mask_source(NAME, b"nothing", None)


def test_a_mask_file_comes_before_the_alpha_channel(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(encoded(Image.new("L", (5, 3), 9)))
    source = mask_source(NAME, encoded(Image.new("RGBA", (5, 3), (1, 2, 3, 4))), tmp_path / "m.png")
    assert (source.path, source.is_alpha) == (tmp_path / "m.png", False)
    assert np.asarray(open_mask(source, (5, 3))).tolist() == [[9] * 5] * 3
    with pytest.raises(DataError, match="cannot read the mask"):
        mask_source(NAME, b"", tmp_path / "gone.png")


def test_samples_without_a_mask_count_in_full() -> None:
    mask = torch.tensor([[[0.0, 0.25, 1.0], [1.0, 0.0, 0.5]]])
    area = stack_areas([None, mask], 0.2)
    assert area.shape == (2, 1, 2, 3)
    assert torch.equal(area[0], torch.ones(1, 2, 3))
    torch.testing.assert_close(area[1], torch.tensor([[[0.2, 0.4, 1.0], [1.0, 0.2, 0.6]]]))
    assert stack_areas([None, None], 0.2) is None


def test_each_cell_of_the_latents_is_the_mean_of_its_pixels() -> None:
    pixels = np.zeros((4, 6), np.uint8)
    pixels[0, 0] = pixels[0, 1] = pixels[3, 5] = 255
    pixels[1, 2] = 102
    mask = latent_mask(Image.fromarray(pixels), 4, 6, View(), 2)
    assert mask.shape == (1, 2, 3)
    torch.testing.assert_close(mask[0], torch.tensor([[0.5, 0.1, 0], [0, 0, 0.25]]))


@pytest.mark.parametrize("view", [View(0.1, 0.9), View(0.8, 0.3, flip=True)])
@pytest.mark.parametrize("size", [(40, 24), (17, 31)])
def test_the_mask_is_cut_and_mirrored_as_the_picture(view: View, size: tuple[int, int]) -> None:
    """A picture that is its own mask stays so."""
    grey = np.random.default_rng(3).integers(0, 256, (size[1], size[0]), np.uint8)
    mask = latent_mask(Image.fromarray(grey), 8, 12, view, 4)
    seen = to_tensor(fit(Image.fromarray(grey).convert("RGB"), 8, 12, view, "box"))[:1]
    cells = torch.stack(
        [torch.stack([seen[0, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean() for x in range(3)]) for y in range(2)]
    )
    torch.testing.assert_close(mask[0], (cells + 1) / 2)


def test_the_unmasked_area_has_the_weight_asked_for() -> None:
    mask = torch.tensor([0.0, 0.25, 1.0])
    torch.testing.assert_close(area_weights(mask, 0.2), torch.tensor([0.2, 0.4, 1.0]))
    assert torch.equal(area_weights(mask, 0.0), mask)
    assert torch.equal(area_weights(mask, 1.0), torch.ones(3))
    with pytest.raises(ConfigError, match=r"within 0 to 1, got 1\.5"):
        area_weights(mask, 1.5)
