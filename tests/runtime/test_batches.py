"""Sets for samples in whole models: which row of a layer's batch is whose, however the model merges things into it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lorica
from lorica.adapters import Adapter
from lorica.errors import StateError
from sample_layers import make_lora, relative_error
from tiny_pipelines import sd_pipeline
from tiny_transformers import MODELS, WITHOUT_REGIONS, make, output

pytestmark = pytest.mark.filterwarnings("ignore:`FluxPosEmbed`:FutureWarning")  # diffusers' own, in Chroma
FP32_NOISE = 1e-5  # relative; worst measured 1.1e-6
SETS = ({"a": 0.03}, {"b": 0.02})
KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def with_two(model: Any, paths: list[str] | None = None) -> tuple[lorica.Loras, list[str]]:
    """Load two adapters on all layers of a model's denoiser in which samples can be told apart."""
    loras = lorica.attach(model)
    name = next(name for name in loras.components if "text_encoder" not in name)
    part = loras.components[name]
    found = [path for path, layer in part.named_modules() if type(layer) in KINDS] if paths is None else paths
    chosen = [path for path in found if ".experts." not in path and not path.startswith("cap_embedder")]
    for seed, adapter in enumerate("ab"):
        torch.manual_seed(seed)
        layers = {path: make_lora(part.get_submodule(path), rank=2 + seed) for path in chosen}
        loras.load(Adapter({name: layers}), name=adapter)
    return loras, found


@pytest.mark.parametrize("name", [*MODELS, *WITHOUT_REGIONS])
def test_every_model_gives_each_sample_what_it_gives_alone(name: str) -> None:
    model, inputs = make(name)
    loras, _ = with_two(model)
    alone: list[Tensor] = []
    for sample, strengths in enumerate(SETS):
        loras.set(strengths)
        alone.append(output(model, inputs)[sample])
    loras.per_sample(SETS)
    got = output(model, inputs)
    for mine, expected in zip(got, alone, strict=True):
        assert relative_error(mine, expected) < FP32_NOISE
    loras.set(SETS[0])
    assert relative_error(output(model, inputs)[1], alone[1]) > 1e-2  # or it would not matter whose is whose


@pytest.mark.parametrize(("name", "path"), [("hidream", "experts"), ("z image", "cap_embedder")])
def test_layers_that_mingle_the_samples_are_refused(name: str, path: str) -> None:
    model, inputs = make(name)
    loras, found = with_two(model)
    before = output(model, inputs)
    mingled = next(one for one in found if path in one.split("."))
    change = make_lora(model.get_submodule(mingled))
    loras.load(Adapter({next(iter(loras.components)): {mingled: change}}), name="c", strength=0.0)
    with pytest.raises(StateError, match=rf"'c' changes .*{path}.*, which sees the tokens of all samples in one row"):
        loras.per_sample([{"a": 1.0}, {"c": 0.5}])
    loras.set({"a": 1.0, "b": 1.0})
    for mine, expected in zip(output(model, inputs), before, strict=True):
        assert torch.equal(mine, expected)
    loras.per_sample([{"a": 1.0}, {"c": 0.0}])  # off: no matter where it stands


@pytest.mark.parametrize("images", [1, 2, 3])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("told", [True, False])
def test_a_pipeline_tells_guidance_from_several_pictures_of_a_prompt(images: int, guidance: float, told: bool) -> None:
    pipe: Any = sd_pipeline()
    pipe.set_progress_bar_config(disable=True)
    loras, _ = with_two(pipe, ["mid_block.attentions.0.transformer_blocks.0.attn2.to_k", "conv_in"])
    words = torch.linspace(-1, 1, 2 * 7 * 24).view(2, 7, 24)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)).repeat(2 * images, 1, 1, 1)

    def call() -> Tensor:
        return pipe(
            prompt_embeds=words, negative_prompt_embeds=-words, num_inference_steps=2, latents=noise,
            guidance_scale=guidance, num_images_per_prompt=images, output_type="latent",
        ).images  # fmt: skip

    alone: list[Tensor] = []
    sets = ({"a": 0.9}, {"b": 0.8})
    for sample, strengths in enumerate(sets):
        loras.set(strengths)
        alone.append(call().chunk(2)[sample])
    loras.per_sample(sets, guidance=(2 if guidance > 1 else 1) if told else None)
    assert relative_error(call(), torch.cat(alone)) < FP32_NOISE
    loras.set(sets[0])
    assert relative_error(call(), torch.cat(alone)) > 1e-3


class Merging(nn.Module):
    """Merges points into the batch of one layer, as video models do with frames; and may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 7)

    def forward(self, x: Tensor, wait: threading.Barrier | None = None, *, fail: bool = False) -> Tensor:
        if wait is not None:
            wait.wait()
        y = self.inner(x.flatten(0, 1))
        if fail:
            raise MemoryError
        return y.view(*x.shape[:2], -1)


def test_a_module_that_is_called_with_one_row_for_each_sample_needs_no_guessing() -> None:
    model, x = Merging(), torch.randn(2, 4, 5)
    loras, _ = with_two(model)
    sets = ({"a": 0.9}, {"b": 0.8})
    rows: list[Tensor] = []
    for sample, strengths in enumerate(sets):
        loras.set(strengths)
        rows.append(model(x)[sample])
    loras.per_sample(sets)
    for _ in range(2):
        assert relative_error(model(x), torch.stack(rows)) < FP32_NOISE
        with pytest.raises(MemoryError):
            model(x, fail=True)  # after which nothing is remembered of its batch
        repeated = model(torch.cat([x, x]))
        assert relative_error(repeated, torch.cat([*rows, *rows]).view_as(repeated)) < FP32_NOISE


def test_threads_with_other_batches_do_not_disturb_each_other() -> None:
    model = Merging()
    loras, _ = with_two(model)
    loras.per_sample(({"a": 0.9}, {"b": 0.8}), guidance=None)
    small, large = torch.randn(2, 4, 5), torch.randn(4, 4, 5)
    expected, wait = [model(small), model(large)], threading.Barrier(2)
    got: dict[int, list[Tensor]] = {0: [], 1: []}

    def work(index: int, x: Tensor) -> None:
        got[index] = [model(x, wait) for _ in range(20)]

    threads = [threading.Thread(target=work, args=(index, x)) for index, x in enumerate((small, large))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, outputs in got.items():
        assert len(outputs) == 20
        assert all(relative_error(one, expected[index]) < FP32_NOISE for one in outputs)
