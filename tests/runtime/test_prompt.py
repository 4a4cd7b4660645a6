"""Adapters as tags of a prompt: read, found, applied for the time, and taken off again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

import lorica
from lorica.adapters import Adapter, LoRA
from lorica.errors import ConfigError, ModelError, UnknownNameError
from lorica.runtime.prompt.tags import Tag, parse_tags
from lorica.runtime.strengths import resolve
from sample_layers import make_locon, make_lora
from tiny_models import flux
from tiny_pipelines import sd_pipeline

UNET = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("<lora:ikea>", Tag("ikea")),
        ("<lora:ikea:0.7>", Tag("ikea", 0.7, 0.7)),
        ("<lora:ikea:-1.5>", Tag("ikea", -1.5, -1.5)),
        ("<lora:my style v1.2:0.7>", Tag("my style v1.2", 0.7, 0.7)),
        ("<lora:ikea:0.5:0.8>", Tag("ikea", 0.5, 0.8)),
        ("<LORA:ikea:0.5:0.8>", Tag("ikea", 0.5, 0.8)),
        ("<lyco:ikea:0.5>", Tag("ikea", 0.5, 0.5)),
        ("<lora:ikea:te=0.5:unet=0.8>", Tag("ikea", 0.5, 0.8)),
        ("<lora:ikea:unet=0.8>", Tag("ikea", 1.0, 0.8)),
        ("<lora:ikea:te=0.3>", Tag("ikea", 0.3, 0.3)),
        ("<lora:ikea:0.6:unet=0.8:dyn=4>", Tag("ikea", 0.6, 0.8, ranks=4)),
        ("<lora:ikea:0.8@0-0.5>", Tag("ikea", 0.8, 0.8, 0.0, 0.5)),
        ("<lora:ikea:0.8@0.5->", Tag("ikea", 0.8, 0.8, 0.5, 1.0)),
        ("<lora:a-b:0.8@-.5>", Tag("a-b", 0.8, 0.8, 0.0, 0.5)),
        ("<lora:ikea@0.2-0.9>", Tag("ikea", 1.0, 1.0, 0.2, 0.9)),
        ("<lora:ikea:0.5:0.8@0.2-0.9>", Tag("ikea", 0.5, 0.8, 0.2, 0.9)),
        (f"<lora:ikea:0.8:lbw={','.join('1' * 12)}>", Tag("ikea", 0.8, 0.8, blocks=(1.0,) * 12)),
        (f"<lora:ikea:lbw=-.5{',1' * 25}:unet=0.8@0-0.5>", Tag("ikea", 1.0, 0.8, 0.0, 0.5, blocks=(-0.5, *[1.0] * 25))),
    ],
)
def test_every_form_of_a_tag(tag: str, expected: Tag) -> None:
    assert parse_tags(f"a cat, {tag} sitting") == ("a cat, sitting", [expected])


def test_prompts_without_tags_stay_letter_by_letter() -> None:
    text = "a cat  (fluffy:1.2), [dog|<hypernet:x>] \n<b>"
    assert parse_tags(text) == (text, [])
    assert parse_tags("<lora:a:1>a<lora:b:1> cat")[0] == "a cat"


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("<lora:>", "cannot be read"),
        ("<lora:a:>", "cannot be read: something is missing"),
        ("<lora:a:1:2:3>", "cannot be read"),
        ("<lora:a:1:lbw=IN>", "cannot be read"),
        ("<lora:a:strong>", "'strong' where a number"),
        ("<lora:a:nan>", "'nan' where a number"),
        ("<lora:a:1@0.5-0.5>", "begin before it ends"),
        ("<lora:a:1@0-2>", "inside 0 to 1"),
        ("<lora:a:1:dyn=0>", "dyn=0"),
        ("<lora:a:1@x-0.5>", "cannot be read|where a number"),
        ("<lora:a:1:lbw=1,0,0>", "12 for SDXL, 17 for SD 1.x and 2.x, 20 for SDXL, 26 .*got 3: '1,0,0'"),
        (f"<lora:a:1:lbw={',1' * 16}>", "'' where a number"),
    ],
)
def test_a_tag_that_cannot_be_read_is_quoted(tag: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        parse_tags(f"a cat {tag}")
    assert tag in str(error.value)


class Recorder:
    """A pipeline with a folder of adapters, and what was live at each forward."""

    def __init__(self, folder: Path) -> None:
        self.pipe, self.folder = sd_pipeline(), folder
        self.pipe.set_progress_bar_config(disable=True)
        paths = dict(self.pipe.text_encoder.named_modules())
        self.text = next(path for path in paths if path.endswith("layers.0.self_attn.q_proj"))
        (folder / "more").mkdir()
        for seed, name in enumerate(["ikea", "more/Feng"]):
            torch.manual_seed(seed)
            parts = {"unet": {UNET: make_lora(self.pipe.unet.get_submodule(UNET))}}
            if name == "ikea":
                parts["text_encoder"] = {self.text: make_lora(paths[self.text])}
            lorica.write(Adapter(parts), folder / f"{name}.safetensors", metadata={"ss_output_name": f"{name}_alias"})
        self.loras = lorica.attach(self.pipe)
        self.seen: list[dict[str, Any]] = []
        self.pipe.unet.register_forward_pre_hook(lambda *_: self.seen.append(dict(self.loras.strengths)))

    def call(self, prompt: Any, steps: int = 2, **given: Any) -> Any:
        assert not any("<lora" in text for text in [prompt])
        torch.manual_seed(1)
        words = torch.linspace(-1, 1, 7 * 24).view(1, 7, 24)
        wanted = {"guidance_scale": 1.0, "output_type": "latent", "num_inference_steps": steps, **given}
        return self.pipe(prompt_embeds=words, **wanted).images


def test_tags_act_within_the_block_and_all_is_restored(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    own = Adapter({"unet": {UNET: make_lora(recorder.pipe.unet.get_submodule(UNET), rank=2)}})
    recorder.loras.load(own, name="own", strength=0.3)
    with lorica.prompt(recorder.pipe, "a cat <lora:ikea:0.5:0.8> <lora:feng:0.7>", folder=tmp_path) as text:
        assert text == "a cat"
        recorder.call(text)
    expected = {"own": 0.3, "ikea": {"unet": 0.8, "text_encoder": 0.5}, "feng": {"unet": 0.7}}
    assert recorder.seen == [expected] * 2
    assert (recorder.loras.names, recorder.loras.strengths) == (["own"], {"own": 0.3})


def test_windows_follow_the_steps_and_the_same_name_adds_up(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    prompted = lorica.prompt(
        recorder.pipe, "<lora:ikea:0.4:1@0-0.5> <lora:ikea:0.1:0.25@0.5-1> <lora:Feng:0.6>", folder=tmp_path
    )
    with prompted as text:
        recorder.call(text, 4)
    text_strength = pytest.approx(0.5)
    assert [seen["ikea"] for seen in recorder.seen] == [
        {"unet": value, "text_encoder": text_strength} for value in (1.0, 1.0, 0.25, 0.25)
    ]
    assert [seen["Feng"] for seen in recorder.seen] == [{"unet": 0.6}] * 4
    assert recorder.loras.names == []


LIST = (0.5, 1, 2, 0.25, 4, 5, 6, 0.75, *range(8, 17))  # the text 0, down 1 at 3, the middle 7
DOWN = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_v"
TAIL = "time_embedding.linear_1"  # in no block: as strong as the tag


def by_block(recorder: Recorder, folder: Path) -> str:
    """Write an adapter on the text, two blocks and a layer in no block; return its block weights as a tag has them."""
    paths = (UNET, DOWN, TAIL)
    parts = {"unet": {path: make_lora(recorder.pipe.unet.get_submodule(path)) for path in paths}}
    parts["text_encoder"] = {recorder.text: make_lora(recorder.pipe.text_encoder.get_submodule(recorder.text))}
    lorica.write(Adapter(parts), folder / "blocks.safetensors")
    return "lbw=" + ",".join(str(value) for value in LIST)


def test_block_weights_multiply_the_strength_of_each_block(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    weights = by_block(recorder, tmp_path)
    for tag, expected in (
        (f"<lora:blocks:0.8:{weights}>", (0.8 * 0.5, {UNET: 0.75 * 0.8, DOWN: 0.25 * 0.8, TAIL: 0.8})),
        (f"<lora:blocks:0.4:-2:{weights}>", (0.4 * 0.5, {UNET: -1.5, DOWN: -0.5, TAIL: -2.0})),
        (f"<lora:blocks:1:{weights}> <lora:blocks:0.3>", (0.5 + 0.3, {UNET: 1.05, DOWN: 0.55, TAIL: 1.3})),
    ):
        with lorica.prompt(recorder.pipe, tag, folder=tmp_path):
            found = resolve(recorder.loras.strengths["blocks"], recorder.loras.modules("blocks"))
        text_strength, unet = expected
        assert found["unet"] == pytest.approx(unet)
        assert found["text_encoder"] == pytest.approx({recorder.text: text_strength})


def test_block_weights_in_a_window_follow_the_steps(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    tags = f"<lora:blocks:0.5:{by_block(recorder, tmp_path)}@0-0.5> <lora:blocks:0.25@0.5-1>"
    with lorica.prompt(recorder.pipe, tags, folder=tmp_path) as text:
        recorder.call(text, 4)
    first, last = {UNET: 0.375, DOWN: 0.125, TAIL: 0.5}, dict.fromkeys((UNET, DOWN, TAIL), 0.25)
    assert [seen["blocks"]["unet"] for seen in recorder.seen] == [first, first, last, last]
    assert {seen["blocks"]["text_encoder"][recorder.text] for seen in recorder.seen} == {0.5 * 0.5 + 0.25}


def test_block_weights_for_other_blocks_are_refused(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    by_block(recorder, tmp_path)
    zeros = ",".join(["0"] * 12)
    path = "up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    lorica.write(
        Adapter({"unet": {path: make_lora(recorder.pipe.unet.get_submodule(path))}}), tmp_path / "sdxl.safetensors"
    )
    recorder.loras.load(tmp_path / "ikea.safetensors", name="live", strength=0.5)
    with (
        pytest.raises(ConfigError, match=r"lbw= of <lora:sdxl>: a list of 17 block weights is for SD 1.x"),
        lorica.prompt(recorder.pipe, f"<lora:sdxl:1:lbw={zeros},1,1,1,1,1>", folder=tmp_path),
    ):
        raise AssertionError
    assert recorder.loras.strengths == {"live": 0.5}
    assert recorder.loras.names == ["live"]


def test_block_weights_are_for_unets(tmp_path: Path) -> None:
    model, _ = flux()
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=None, text_encoder=None, tokenizer=None, text_encoder_2=None,
        tokenizer_2=None, transformer=model,
    )  # fmt: skip
    path = "transformer_blocks.0.attn.to_q"
    lorica.write(Adapter({"transformer": {path: make_lora(model.get_submodule(path))}}), tmp_path / "a.safetensors")
    with (
        pytest.raises(
            ConfigError, match="lbw= names the blocks of a UNet, but 'a' changes the component 'transformer'"
        ),
        lorica.prompt(pipe, f"<lora:a:1:lbw={','.join('1' * 17)}>", folder=tmp_path),
    ):
        raise AssertionError


def test_it_can_be_called_like_the_pipeline(bundled: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(bundled)
    pipe.set_progress_bar_config(disable=True)
    path = next(name for name, _ in pipe.unet.named_modules() if name.endswith("attn2.to_k"))
    adapter = Adapter({"unet": {path: make_lora(pipe.unet.get_submodule(path))}})
    lorica.write(adapter, tmp_path / "style.safetensors")

    def draw(text: str) -> Any:
        generator = torch.Generator().manual_seed(0)
        return lorica.prompt(pipe, text, tmp_path)(num_inference_steps=1, generator=generator, output_type="np").images

    plain, tagged = draw("a heart"), draw("a heart <lora:style:2>")
    assert not (plain == tagged).all()
    assert (draw("a heart") == plain).all()
    loras = lorica.attach(pipe)
    loras.load(adapter, name="style", strength=2.0)
    assert (draw("a heart") == tagged).all()


def test_an_adapter_is_found_by_file_name_in_any_case_or_by_the_trainers_name(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    for name in ("FENG", "ikea_alias", "more/Feng_alias"):
        with lorica.prompt(recorder.pipe, f"<lora:{name}:1>", folder=tmp_path):
            assert recorder.loras.names == [name]


def test_an_unknown_name_says_which_names_there_are_and_changes_nothing(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    with (
        pytest.raises(UnknownNameError, match=r"unknown adapter 'ike'\. Did you mean 'ikea'\? Known: Feng, ikea"),
        lorica.prompt(recorder.pipe, "<lora:feng:1> <lora:ike:1>", folder=tmp_path),
    ):
        raise AssertionError
    assert recorder.loras.names == []
    with pytest.raises(UnknownNameError, match="Known: none"), lorica.prompt(recorder.pipe, "<lora:feng:1>"):
        raise AssertionError


def test_an_error_within_the_block_restores_too(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    with pytest.raises(MemoryError), lorica.prompt(recorder.pipe, "<lora:feng:1@0-0.5>", folder=tmp_path):
        raise MemoryError
    assert (recorder.loras.names, recorder.loras.strengths) == ([], {})
    recorder.call("", 2)
    assert recorder.seen == [{}, {}]


def test_dyn_keeps_the_first_ranks_as_strong_as_they_were(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    weight = recorder.pipe.unet.get_submodule(UNET).weight
    change = LoRA(torch.randn(6, weight.shape[1]), torch.randn(weight.shape[0], 6), 3.0)
    lorica.write(Adapter({"unet": {UNET: change}}), tmp_path / "six.safetensors")
    with lorica.prompt(recorder.pipe, "<lora:six:1:dyn=2>", folder=tmp_path):
        cut = recorder.loras["six (dyn=2)"].components["unet"][UNET]
    expected = 0.5 * change.up[:, :2] @ change.down[:2]
    assert cut.rank == 2
    assert torch.allclose(cut.delta(weight), expected, atol=1e-6)


def test_dyn_is_for_factors_that_can_be_cut(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    core = {"conv_in": make_locon(recorder.pipe.unet.conv_in)}
    lorica.write(Adapter({"unet": core}), tmp_path / "core.safetensors", format="kohya", target=recorder.loras.target())
    with (
        pytest.raises(ModelError, match=r"unet\.conv_in is of kind 'locon'"),
        lorica.prompt(recorder.pipe, "<lora:core:1:dyn=2>", folder=tmp_path),
    ):
        raise AssertionError
    assert recorder.loras.names == []
