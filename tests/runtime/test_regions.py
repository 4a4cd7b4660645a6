"""Adapters limited to regions: exact at every point of a layer, with all that sets strengths, and refused where not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lorica
from lorica.adapters import Adapter, LoRA
from lorica.errors import ModelError, StateError
from sample_kinds import SAMPLES
from sample_layers import LAYERS, NORMS, make_lora, one, relative_error
from tiny_models import output, sd15
from tiny_pipelines import sd_pipeline

FP32_NOISE = 2e-6  # relative; worst measured 6e-7
ROWS, COLUMNS = 6, 10
LEFT = torch.zeros(12, 20)
LEFT[:, :10] = 1


class Picture(nn.Module):
    """A model whose only layer acts on every point of a picture ``(b, c, rows, columns)``."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, sample: Tensor) -> Tensor:
        if isinstance(self.layer, (nn.Conv2d, nn.GroupNorm)):
            return self.layer(sample)
        tokens = self.layer(sample.flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).unflatten(2, sample.shape[2:])


def on_the_picture(layer: nn.Module) -> bool:
    return isinstance(layer, (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm))


ON_PICTURES = {name: make for name, make in (LAYERS | NORMS).items() if on_the_picture(make())}


def width_of(layer: Any) -> int:
    return (
        next(getattr(layer, name) for name in ("in_features", "in_channels", "num_channels") if hasattr(layer, name))
        if not hasattr(layer, "normalized_shape")
        else layer.normalized_shape[0]
    )


def whole_numbers(*shape: int) -> Tensor:
    """Return numbers whose sums and products float32 holds exactly."""
    return torch.randint(-4, 5, shape).float()


def cells(mask: Tensor, rows: int, columns: int) -> Tensor:
    """Return the mean of a mask over each cell of a grid that divides it, written out."""
    high, wide = mask.shape[0] // rows, mask.shape[1] // columns
    return torch.tensor(
        [[mask[i * high : (i + 1) * high, j * wide : (j + 1) * wide].mean() for j in range(columns)]
         for i in range(rows)]
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["linear", "conv2d 1x1"])
def test_pointwise_layers_are_exact_entry_by_entry(kind: str) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 4) if kind == "linear" else nn.Conv2d(3, 4, 1)
    layer.weight.data, layer.bias.data = whole_numbers(*layer.weight.shape), whole_numbers(4)
    model, x = Picture(layer), whole_numbers(2, 3, ROWS, COLUMNS)
    down, up = (
        {n: whole_numbers(r, 3) for n, r in (("a", 2), ("b", 5))},
        {"a": whole_numbers(4, 2), "b": whole_numbers(4, 5)},
    )
    ones = [1, 1] if kind == "conv2d 1x1" else []
    loras = lorica.attach(model)
    for name in ("a", "b"):
        rank = len(down[name])
        loras.load(one(LoRA(down[name].view(rank, 3, *ones), up[name].view(4, rank, *ones), rank), "layer"), name=name)
    masks = {"a": torch.randint(0, 2, (12, 20)).float(), "b": torch.randint(0, 5, (ROWS, COLUMNS)) / 4}
    strengths = {"a": 2.0, "b": -0.5}
    loras.set(strengths)
    loras.regions(masks)
    got = model(x)
    seen = {name: cells(mask, ROWS, COLUMNS) for name, mask in masks.items()}
    expected = torch.zeros_like(got)
    for b in range(2):
        for i in range(ROWS):
            for j in range(COLUMNS):
                point = x[b, :, i, j]
                value = layer.weight.data.view(4, 3) @ point + layer.bias.data
                for name in ("a", "b"):
                    value = value + strengths[name] * seen[name][i, j] * (up[name] @ (down[name] @ point))
                expected[b, :, i, j] = value
    assert torch.equal(got, expected)


@pytest.mark.parametrize("name", ON_PICTURES)
def test_every_method_acts_inside_its_mask_alone(name: str) -> None:
    for sample, (is_for, make) in SAMPLES.items():
        torch.manual_seed(0)
        layer = ON_PICTURES[name]()
        if not is_for(layer):
            continue
        model, x = Picture(layer), torch.randn(2, width_of(layer), ROWS, COLUMNS)
        loras = lorica.attach(model)
        loras.load(one(make(layer), "layer"), name="a", strength=0.7)
        loras.load(one(make_lora(layer, 2) if layer.weight.ndim > 1 else SAMPLES["norm"][1](layer), "layer"), name="b")
        loras.set({"b": 1.0})
        beside = model(x)
        loras.set({"b": 1.0, "a": 0.7})
        everywhere = model(x)
        with loras.regions({"a": LEFT}), torch.no_grad():
            got = model(x)
        rows, columns = got.shape[2:]
        weights = torch.nn.functional.interpolate(LEFT[None, None], (rows, columns), mode="area")
        expected = beside + weights * (everywhere - beside)
        assert relative_error(got, expected) < FP32_NOISE, sample
        assert relative_error(everywhere, expected) > 1e-3, sample
        loras.detach()


def test_two_adapters_each_have_their_own_half() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, 1)
    layer.weight.data, layer.bias.data = whole_numbers(5, 3, 1, 1), whole_numbers(5)
    model, x = Picture(layer), whole_numbers(1, 3, ROWS, COLUMNS)
    loras = lorica.attach(model)
    alone = {}
    for name, rank in (("a", 2), ("b", 4)):
        loras.load(one(LoRA(whole_numbers(rank, 3, 1, 1), whole_numbers(5, rank, 1, 1), rank), "layer"), name=name)
        loras.set({name: 1.0})
        alone[name] = model(x)
    loras.set({"a": 1.0, "b": 1.0})
    loras.regions({"a": LEFT, "b": 1 - LEFT})
    assert torch.equal(model(x), torch.cat([alone["a"][..., :5], alone["b"][..., 5:]], dim=3))


def adapter(unet: nn.Module, pattern: str = "", seed: int = 0) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for path, layer in unet.named_modules():
        if type(layer) in (nn.Linear, nn.Conv2d) and pattern in path:
            out, *rest = layer.weight.shape
            ones = [1] * (len(rest) - 1)
            down = torch.randn(3, *rest, generator=generator) / 4
            layers[path] = LoRA(down, torch.randn(out, 3, *ones, generator=generator) / 4)
    return Adapter({"unet": layers})


def two_on_sd15() -> tuple[Any, nn.Module, Any]:
    unet, inputs = sd15()
    loras = lorica.attach(unet)
    loras.load(adapter(unet), name="a", strength=0.5)
    loras.load(adapter(unet, seed=1), name="b", strength=0.25)
    return loras, unet, inputs


def test_regions_hold_while_strengths_change_and_end_with_the_block() -> None:
    loras, unet, inputs = two_on_sd15()
    free = output(unet, inputs)
    with loras.regions({"a": LEFT}):
        limited = output(unet, inputs)
        loras.set({"a": 1.0})
        loras.set({"a": 0.5, "b": 0.25})
        assert torch.equal(output(unet, inputs), limited)
        with loras.regions({"b": LEFT}):
            assert not torch.equal(output(unet, inputs), limited)
        assert torch.equal(output(unet, inputs), limited)
        with loras.using({"b": 2.0}):
            pass
        assert torch.equal(output(unet, inputs), limited)
    assert torch.equal(output(unet, inputs), free)
    loras.regions({"a": LEFT})
    assert torch.equal(output(unet, inputs), limited)
    loras.regions({})
    assert torch.equal(output(unet, inputs), free)
    with pytest.raises(RuntimeError, match="within"), loras.regions({"a": LEFT}):
        raise RuntimeError("within")
    assert torch.equal(output(unet, inputs), free)


def test_the_region_goes_with_its_adapter_and_comes_to_new_layers() -> None:
    loras, unet, inputs = two_on_sd15()
    loras.regions({"a": LEFT})
    limited = output(unet, inputs)
    loras.load(adapter(unet, seed=2), name="c")
    loras.remove("c")
    assert torch.equal(output(unet, inputs), limited)
    loras.remove("a")
    loras.load(adapter(unet), name="a", strength=0.5)
    everywhere = output(unet, inputs)
    assert not torch.equal(everywhere, limited)
    loras.detach()
    assert not [hook for part in unet.modules() for hook in (*part._forward_hooks, *part._forward_pre_hooks)]


def test_per_sample_sets_are_limited_as_each_alone() -> None:
    loras, unet, inputs = two_on_sd15()
    loras.regions({"a": LEFT, "b": 1 - LEFT})
    sets = [{"a": 0.7}, {"b": 0.9, "a": -0.2}]
    rows = []
    for row, one_set in enumerate(sets):
        loras.set(one_set)
        rows.append(
            output(unet, {**inputs, **{k: inputs[k][row : row + 1] for k in ("sample", "encoder_hidden_states")}})
        )
    loras.per_sample(sets, guidance=1)
    assert relative_error(output(unet, inputs), torch.cat(rows)) < FP32_NOISE


def test_a_schedule_runs_inside_a_region() -> None:
    pipe = sd_pipeline()
    pipe.set_progress_bar_config(disable=True)
    loras = lorica.attach(pipe)
    loras.load(adapter(pipe.unet), name="a", strength=0.0)

    def latents() -> Any:
        embeds: Any = {
            name: torch.ones(1, 7, 24) * scale for name, scale in (("prompt_embeds", 1), ("negative_prompt_embeds", 2))
        }
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        return pipe(**embeds, latents=noise, num_inference_steps=3, output_type="latent").images

    base = latents()
    with loras.regions({"a": torch.zeros(4, 4)}, elsewhere=0.0), loras.schedule({"a": [0.5, 0.0, 0.7]}):
        assert torch.equal(latents(), base)
    with loras.regions({"a": torch.ones(4, 4)}), loras.schedule({"a": [0.5, 0.0, 0.7]}):
        inside = latents()
    with loras.schedule({"a": [0.5, 0.0, 0.7]}):
        assert relative_error(inside, latents()) < FP32_NOISE
    assert relative_error(inside, base) > 1e-2


def test_elsewhere_is_the_strength_of_layers_without_a_place() -> None:
    unet, inputs = sd15()
    loras = lorica.attach(unet)
    loras.load(adapter(unet, "attn2.to_k"), name="text")
    loras.load(adapter(unet, "attn1.to_q"), name="picture")
    loras.set({"text": 0.4, "picture": 1.0})
    expected = output(unet, inputs)
    loras.set({"text": 0.8, "picture": 1.0})
    assert relative_error(output(unet, inputs), expected) > 1e-4
    both = {part: {**loras["text"].components[part], **loras["picture"].components[part]} for part in ("unet",)}
    loras.clear()
    loras.load(Adapter(both), name="a", strength={"unet": {"*.attn2.*": 0.8, "*.attn1.*": 1.0}})
    loras.regions({"a": torch.ones(2, 2)}, elsewhere=0.5)
    assert relative_error(output(unet, inputs), expected) < FP32_NOISE


def test_inside_the_weights_there_are_no_regions() -> None:
    loras, _, _ = two_on_sd15()
    loras.regions({"a": LEFT})
    with pytest.raises(StateError, match="'a' is limited to a region, and inside the weights it would act everywhere"):
        loras.fuse({"a": 1.0})
    loras.fuse({"b": 1.0})
    with pytest.raises(StateError, match="'b' is fused"):
        loras.regions({"b": LEFT})
    with loras.regions({"a": LEFT}):
        loras.regions({})
        loras.fuse({"a": 0.5})
    assert "limited to a region" not in str(loras.summary())


def test_a_mask_that_limits_nothing_is_an_error_where_the_adapter_acts() -> None:
    unet, inputs = sd15()
    loras = lorica.attach(unet)
    loras.load(adapter(unet, "attn2.to_v"), name="text")
    loras.load(adapter(unet), name="all")
    loras.regions({"text": LEFT, "all": LEFT})
    with pytest.raises(ModelError, match=r"the mask of 'text' limits nothing: .* this UNet2DCond"):
        output(unet, inputs)
    loras.set({"all": 1.0})
    output(unet, inputs)


def test_text_encoders_have_no_picture_and_take_elsewhere() -> None:
    pipe = sd_pipeline()
    loras = lorica.attach(pipe)
    words = torch.arange(7).view(1, 7)
    base = pipe.text_encoder(words).last_hidden_state
    layers = {p: make_lora(m) for p, m in pipe.text_encoder.named_modules() if type(m) is nn.Linear}
    loras.load(Adapter({"text_encoder": layers, **adapter(pipe.unet).components}), name="a")
    everywhere = pipe.text_encoder(words).last_hidden_state
    with loras.regions({"a": LEFT}):
        assert relative_error(pipe.text_encoder(words).last_hidden_state, everywhere) < FP32_NOISE
    with loras.regions({"a": LEFT}, elsewhere=0.0):
        assert torch.equal(pipe.text_encoder(words).last_hidden_state, base)


def test_a_model_is_not_copied_while_regions_hold() -> None:
    loras, unet, _ = two_on_sd15()
    with loras.regions({"a": LEFT}), pytest.raises(StateError, match="cannot be copied while its adapters are limited"):
        copy.deepcopy(unet)
    copy.deepcopy(unet)


def test_a_part_called_by_itself_has_no_picture() -> None:
    loras, unet, _ = two_on_sd15()
    part: Any = unet
    with loras.regions({"a": LEFT}), pytest.raises(StateError, match="part of this UNet2DConditionModel was called"):
        part.conv_in(torch.randn(1, 4, 8, 8))


def test_a_compiled_model_refuses_regions_and_runs_them_eagerly() -> None:
    model, x = Picture(nn.Conv2d(3, 5, 1)), torch.randn(1, 3, ROWS, COLUMNS)
    loras = lorica.attach(model)
    loras.load(one(make_lora(model.layer), "layer"), name="a")
    free = model(x)
    compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
    assert relative_error(compiled(x), free) < FP32_NOISE
    with loras.regions({"a": LEFT}):
        expected = model(x)
        with pytest.raises(Exception, match="cannot be limited to a region inside a compiled model"):
            compiled(x)
        with torch.compiler.set_stance("force_eager"):
            assert torch.equal(compiled(x), expected)
    assert relative_error(expected, free) > 1e-2
    assert relative_error(compiled(x), free) < FP32_NOISE


def test_the_summary_names_what_is_limited() -> None:
    loras, _, _ = two_on_sd15()
    assert "limited to a region" not in str(loras.summary())
    with loras.regions({"b": LEFT, "a": LEFT}):
        assert "limited to a region: b, a" in str(loras.summary())
