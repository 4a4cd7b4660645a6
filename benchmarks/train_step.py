"""One training step: our loop beside the inner loop of the diffusers text-to-image LoRA script, in one process.

Both train a rank-4 adapter on the attention of the same model, batch and data, in float32. The script's loop is written
anew here from its behaviour: it encodes pictures and captions at every step (*as it is*), or is given both (*cached*).
The floor is forward plus backward to the inputs, without any adapter. The sides take turns, step by step; ours with
gradient checkpointing comes after them. Memory is the most that torch holds during a step beyond what it held before.

Run: python benchmarks/train_step.py [--model bundled|sd15] [--steps 15] [--batch 1] [--remember_less] [--small]
[--out FOLDER]
Prints medians, ratios and the split of the steps; writes benchmarks/results/train_step_MODEL_BATCH.json.
"""

from __future__ import annotations

import copy
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from PIL import Image
from reporting import parser_of, results_file, store
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from transformers import CLIPTextConfig, CLIPTextModel

import lorica
import lorica.training.loop as loop_module
from lorica.data.cache import Cache
from lorica.data.items import Item
from lorica.training.config.config import RunConfig
from lorica.training.dataset.dataset import Dataset
from lorica.training.dataset.encoding import load_dataset
from lorica.training.dataset.framing import Framing
from lorica.training.loop import Loop
from lorica.training.optimizer import Optimizer
from lorica.training.progress import Reporter
from lorica.training.recipes.recipe import RecipeSettings
from lorica.training.recipes.sd import StableDiffusion
from lorica.training.setup import prepare_loop

RANK = 4
PICTURES = 8
SIDES = {"bundled": 64, "sd15": 256}  # pixels
ATTENTION = ["to_k", "to_q", "to_v", "to_out.0"]
CHECKPOINTED = "ours, checkpointed"
PARTS = ("encode", "forward", "backward", "clip", "optimizer")


def make_pipeline(model: str) -> StableDiffusionPipeline:
    """Return the bundled pipeline, or one of the size of SD 1.5 with random weights."""
    pipeline = StableDiffusionPipeline.from_pretrained(lorica.bundled_model(), dtype=torch.float32)
    if model == "bundled":
        return pipeline
    torch.manual_seed(0)
    vocabulary = len(pipeline.tokenizer)
    text = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
    )
    unet = UNet2DConditionModel(cross_attention_dim=768)
    text.update({"vocab_size": vocabulary, "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1})
    parts = {"vae": vae, "unet": unet, "text_encoder": CLIPTextModel(text), "scheduler": DDPMScheduler()}
    return StableDiffusionPipeline(
        **parts,
        tokenizer=pipeline.tokenizer,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


class Spent:
    """Seconds by part of a step."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._mark = 0.0

    def begin(self) -> None:
        """Start to count."""
        self._mark = time.perf_counter()

    def note(self, part: str) -> None:
        """Count the time since the last call for a part."""
        now = time.perf_counter()
        self.seconds[part] += now - self._mark
        self._mark = now

    def around(self, part: str, run: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``run``, its time counted for a part."""

        def counted(*args: Any, **named: Any) -> Any:
            self.begin()
            try:
                return run(*args, **named)
            finally:
                self.note(part)

        return counted


class Script:
    """The inner loop of the script: PEFT's adapter, AdamW, accelerate around everything."""

    def __init__(self, pipeline: Any, pixels: Tensor, tokens: Tensor, batch: int) -> None:
        self.accelerator = Accelerator()
        self.vae, self.text, self.unet = (pipeline.components[name] for name in ("vae", "text_encoder", "unet"))
        for part in (self.vae, self.text, self.unet):
            part.requires_grad_(False)
        self.schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
        self.unet.add_adapter(
            LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=ATTENTION)
        )
        self.factors = [parameter for parameter in self.unet.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(self.factors, lr=1e-4, weight_decay=1e-2)
        rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
        self.unet, self.optimizer, self.rates = self.accelerator.prepare(self.unet, optimizer, rates)
        self.pixels, self.tokens, self.batch = pixels, tokens, batch
        self.spent = Spent()
        with torch.no_grad():
            self.latents = [self.encode_pictures(row[None]) for row in pixels]
            self.states = [self.text(row[None])[0] for row in tokens]

    def encode_pictures(self, pixels: Tensor) -> Tensor:
        """Return scaled latents of some pictures."""
        return self.vae.encode(pixels).latent_dist.sample() * self.vae.config.scaling_factor

    def step(self, number: int, *, cached: bool) -> None:
        """Do one step."""
        rows = [(number * self.batch + place) % PICTURES for place in range(self.batch)]
        with self.accelerator.accumulate(self.unet):
            self.spent.begin()
            latents, states = self._inputs(rows, cached=cached)
            self.spent.note("encode")
            noise = torch.randn_like(latents)
            times = torch.randint(0, 1000, (len(rows),)).long()
            noisy = self.schedule.add_noise(latents, noise, times)
            velocity = self.schedule.config.prediction_type == "v_prediction"
            target = self.schedule.get_velocity(latents, noise, times) if velocity else noise
            predicted = self.unet(noisy, times, states, return_dict=False)[0]
            loss = F.mse_loss(predicted.float(), target.float(), reduction="mean")
            self.accelerator.gather(loss.repeat(self.batch)).mean().item()
            self.spent.note("forward")
            self.accelerator.backward(loss)
            self.spent.note("backward")
            self.accelerator.clip_grad_norm_(self.factors, 1.0)
            self.spent.note("clip")
            self.optimizer.step()
            self.rates.step()
            self.optimizer.zero_grad()
            self.spent.note("optimizer")
            loss.detach().item()

    def _inputs(self, rows: Sequence[int], *, cached: bool) -> tuple[Tensor, Tensor]:
        if cached:
            return torch.cat([self.latents[row] for row in rows]), torch.cat([self.states[row] for row in rows])
        return self.encode_pictures(self.pixels[rows]), self.text(self.tokens[rows], return_dict=False)[0]


def write_item(path: Path, pixels: Tensor, caption: str) -> Item:
    """Write one picture, given from -1 to 1."""
    levels = ((pixels + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(levels).save(path)
    return Item(path, caption)


class Ours:
    """Our loop, as ``lorica train`` runs it, on encoded pictures in memory."""

    def __init__(self, pipeline: Any, pixels: Tensor, captions: Sequence[str], batch: int, *, less: bool) -> None:
        config = RunConfig(train_batch_size=batch, max_train_steps=100_000, rank=RANK, remember_less=less)
        accelerator = Accelerator()
        self.recipe = StableDiffusion(pipeline, RecipeSettings(device=accelerator.device, dtype=torch.float32))
        with TemporaryDirectory() as folder:
            items = [
                write_item(Path(folder) / f"{index}.png", row, caption)
                for index, (row, caption) in enumerate(zip(pixels, captions, strict=True))
            ]
            framing = Framing(side=pixels.shape[-1], crops=1, flip=False, interpolation="lanczos", seed=0)
            dataset = load_dataset(items, self.recipe, framing, Cache(None), reporter=Reporter(quiet=True))
        self.plain = self.recipe.with_networks(same_weights)
        self.loop = prepare_loop(config, self.recipe, dataset, accelerator)
        self.steps = self.loop.run(0, lambda: False)

    def step(self, number: int) -> None:
        """Do one step."""
        del number
        next(self.steps)

    @contextmanager
    def measured(self, spent: Spent) -> Iterator[None]:
        """Within the ``with`` block the parts of a step are timed where the loop calls them."""
        places = (
            ("encode", Loop, "_batch"),
            ("encode", Dataset, "conditioning"),
            ("forward", loop_module, "sample_losses"),
            ("backward", Tensor, "backward"),
            ("clip", Optimizer, "clip"),
            ("optimizer", self.loop.optimizer.inner, "step"),
        )
        with ExitStack() as stack:
            for part, owner, name in places:
                stack.enter_context(patch.object(owner, name, spent.around(part, getattr(owner, name))))
            yield

    @contextmanager
    def checkpointed(self) -> Iterator[None]:
        """Save only the inputs of the network's blocks within the ``with`` block (``--gradient_checkpointing``).

        A block is then computed again in the backward pass.
        """
        (network,) = self.recipe.components.values()
        network.train()
        network.enable_gradient_checkpointing()
        try:
            yield
        finally:
            network.disable_gradient_checkpointing()
            network.eval()

    def floor(self, number: int) -> None:
        """Run the model forward, and backward to its inputs, with nothing of ours on it."""
        torch.manual_seed(number)
        example = self.loop.dataset.examples[number % PICTURES]
        latents = example.views[0].mean.expand(self.loop.plan.batch, -1, -1, -1).clone().requires_grad_(True)
        states = self.loop.dataset.texts.encoded[example.item.caption]["states"].expand(self.loop.plan.batch, -1, -1)
        times = torch.randint(1000, (self.loop.plan.batch,))
        self.plain.predict(latents, times, {"states": states}).square().mean().backward()


def same_weights(network: nn.Module) -> nn.Module:
    """Return a copy of a network that shares its weights."""
    return copy.deepcopy(network, {id(own): own for own in (*network.parameters(), *network.buffers())})


def peak_megabytes(run: Callable[[], None]) -> float:
    """Return the most that torch holds while ``run`` runs, beyond what it held before; scratch space is not seen."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(sizes), default=0) / 2**20


def milliseconds(run: Callable[[int], None], number: int) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    run(number)
    return (time.perf_counter() - start) * 1e3


def compare(model: str, steps: int, batch: int, *, less: bool = False) -> dict[str, Any]:
    """Time every side in turn, step by step, and measure the memory of each."""
    torch.manual_seed(0)
    side = SIDES[model]
    pixels = torch.rand(PICTURES, 3, side, side) * 2 - 1
    captions = [f"a picture of thing number {index}" for index in range(PICTURES)]
    pipeline = make_pipeline(model)
    tokens = pipeline.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    ours, script = (
        Ours(pipeline, pixels, captions, batch, less=less),
        Script(make_pipeline(model), pixels, tokens, batch),
    )
    sides: dict[str, Callable[[int], None]] = {
        "script": lambda number: script.step(number, cached=False),
        "script, cached": lambda number: script.step(number, cached=True),
        "ours": ours.step,
        "floor": ours.floor,
    }
    for run in sides.values():
        run(0)
        run(1)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(steps):
        for name, run in sides.items():
            times[name].append(milliseconds(run, number))
    split = {name: split_of(run, steps, script, ours) for name, run in sides.items() if name != "floor"}
    memory = {name: peak_megabytes(lambda run=run: run(0)) for name, run in sides.items()}
    with ours.checkpointed():
        times[CHECKPOINTED] = [milliseconds(ours.step, number) for number in range(-(-steps // 2))]
        memory[CHECKPOINTED] = peak_megabytes(lambda: ours.step(0))
    return {
        "model": model,
        "batch": batch,
        "steps": steps,
        "remember_less": less,
        "processor": platform.processor() or platform.machine(),
        "milliseconds": {name: round(statistics.median(row), 2) for name, row in times.items()},
        "fastest": {name: round(min(row), 2) for name, row in times.items()},
        "peak_megabytes": {name: round(value, 1) for name, value in memory.items()},
        "split_milliseconds": split,
    }


def split_of(run: Callable[[int], None], steps: int, script: Script, ours: Ours) -> dict[str, float]:
    """Return the median milliseconds of each part of a step."""
    script.spent = spent = Spent()
    rows: list[dict[str, float]] = []
    with ours.measured(spent):
        for number in range(steps):
            spent.seconds = dict.fromkeys(PARTS, 0.0)
            run(number)
            rows.append(spent.seconds)
    return {part: round(statistics.median(row[part] for row in rows) * 1e3, 2) for part in PARTS}


def report(figures: dict[str, Any]) -> None:
    """Print the table and the ratios."""
    times, memory = figures["milliseconds"], figures["peak_megabytes"]
    print("| side | ms a step | script / side | cached / side | peak MB above the model |\n|---|---:|---:|---:|---:|")
    for name, value in times.items():
        ratios = f"{times['script'] / value:.2f} | {times['script, cached'] / value:.2f}"
        print(f"| {name} | {value:.1f} | {ratios} | {memory[name]:.0f} |")
    print(f"ours above the floor: {times['ours'] / times['floor'] - 1:.1%}")
    for name, split in figures["split_milliseconds"].items():
        print(f"{name}: " + ", ".join(f"{part} {value}" for part, value in split.items()))


def main() -> None:
    """Read the options, compare, print, write."""
    parser = parser_of(__doc__)
    parser.add_argument("--model", choices=SIDES, default="bundled")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--remember_less", action="store_true")
    options = parser.parse_args()
    if options.small:
        options.model, options.steps = "bundled", 1
    figures = compare(options.model, options.steps, options.batch, less=options.remember_less)
    report(figures)
    name = f"train_step_{options.model}_{options.batch}{'_remember_less' * options.remember_less}"
    store(results_file(options, name), figures)


if __name__ == "__main__":
    main()
