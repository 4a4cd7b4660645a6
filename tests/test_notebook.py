"""Tables in notebooks: what they hold, and that nothing from a file is markup in them."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import torch

import lorica
from lorica.adapters import Adapter, LoRA
from lorica.models import FAMILIES
from lorica.notebook import paragraph, table
from tiny_pipelines import sd_pipeline

EVIL = "<b>x</b>\x1b[31m"
SHOWN = r"<b>x</b>\x1b[31m"


class Reader(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        del attrs
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def lora(shape: tuple[int, ...], rank: int = 2) -> LoRA:
    return LoRA(torch.ones(rank, shape[1]), torch.ones(shape[0], rank))


def test_a_table_shows_texts_as_they_are() -> None:
    page = Reader(table(("a", EVIL), [(1, EVIL)], EVIL) + paragraph(EVIL))
    assert page.texts.count(SHOWN) == 4
    assert "b" not in page.tags


def test_a_summary_is_a_table() -> None:
    pipe = sd_pipeline()
    loras = lorica.attach(pipe)
    path = next(path for path, _ in pipe.unet.named_modules() if path.endswith("attn2.to_k"))
    loras.load(Adapter({"unet": {path: lora(pipe.unet.get_submodule(path).weight.shape)}}), name=EVIL, strength=0.25)
    page = Reader(loras.summary()._repr_html_())
    assert {"adapter", "state", "strength", SHOWN, "live", "0.25"} <= set(page.texts)
    assert "b" not in page.tags


def test_an_adapter_and_its_facts_are_tables(tmp_path: Path) -> None:
    shapes = FAMILIES["bundled"].target.components["unet"]
    layers = {path: lora(shape, 3) for path, shape in shapes.items() if path.endswith("attn2.to_k")}
    adapter = Adapter({"unet": layers}, {"modelspec.trigger_phrase": EVIL})
    path = lorica.write(adapter, tmp_path / "a.safetensors", format="kohya")
    for value in (adapter, lorica.read(path)):
        assert {"component", "unet", str(len(layers)), "lora", "3"} <= set(Reader(value._repr_html_()).texts)
    page = Reader(lorica.inspect(path, model="sdxl")._repr_html_())
    expected = {"kohya", SHOWN, "the bundled model", "fits Stable Diffusion XL", f"0 of {len(layers)} modules"}
    assert expected <= set(page.texts)
    assert "b" not in page.tags


def test_completion_shows_no_internals() -> None:
    names = dir(lorica.attach(sd_pipeline()))
    assert {"load", "set", "detach"} <= set(names)
    assert not [name for name in names if name.startswith("_") and not name.startswith("__")]
