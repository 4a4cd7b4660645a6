"""From settings to all that the loop needs: device, pictures, model, adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from lorica.data.batches import Buckets, bucket_batches_per_epoch
from lorica.data.cache import Cache, cache_folder
from lorica.data.groups import Group
from lorica.data.items import Item
from lorica.data.mixture import epoch_length
from lorica.errors import ConfigError, DataError, MissingExtraError, UnknownNameError
from lorica.runtime.model.targets import choose_modules
from lorica.runtime.trainable.trainable import Trainable
from lorica.training.average import Average
from lorica.training.config.config import RunConfig
from lorica.training.config.per_layer import alphas_of, dropouts_of, ranks_of, rate_in, rate_of, set_first_values
from lorica.training.dataset.dataset import Dataset
from lorica.training.dataset.encoding import load_dataset
from lorica.training.dataset.frames import plan_frames
from lorica.training.dataset.framing import Framing
from lorica.training.dataset.sources import groups_of, shares
from lorica.training.dataset.texts import whole_texts
from lorica.training.loop import Loop
from lorica.training.objective.objective import objective_of, weighting_of
from lorica.training.optimizer import Optimizer
from lorica.training.plan import Plan, make_plan
from lorica.training.progress import Reporter
from lorica.training.recipes import load_recipe
from lorica.training.recipes.base import base_dtype, pack_base, use_xformers
from lorica.training.recipes.load import load_pipeline
from lorica.training.recipes.recipe import Recipe, RecipeSettings

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def make_accelerator(config: RunConfig) -> Accelerator:
    """Return the device, the other processes and the trackers.

    Raises:
        MissingExtraError: if the tracker of ``report_to`` is not installed.
    """
    torch.backends.cuda.matmul.allow_tf32 = config.allow_tf32
    if config.report_to is None:
        return Accelerator()
    try:
        accelerator = Accelerator(log_with=config.report_to, project_dir=config.output_dir / config.logging_dir)
        accelerator.init_trackers("lorica")
    except (ImportError, ValueError) as error:
        raise MissingExtraError(f"the tracker report_to={config.report_to!r} cannot be used: {error}") from error
    if not accelerator.trackers:  # accelerate leaves out those that are not installed
        raise MissingExtraError(
            f"the tracker report_to={config.report_to!r} is not installed; pip install it, or unset it."
        )
    return accelerator


def precision_of(config: RunConfig, accelerator: Accelerator) -> torch.dtype:
    """Return the precision that a step computes in: unset, that of a half base, or else of ``accelerate launch``.

    Raises:
        ConfigError: for fp16 without a GPU.
    """
    half = config.base_precision if config.base_precision in DTYPES else None
    dtype = DTYPES[config.mixed_precision or half or _launched_precision(accelerator)]
    if dtype is torch.float16 and accelerator.device.type == "cpu":
        name = "mixed_precision" if config.mixed_precision else "base_precision"
        raise ConfigError(f"{name} is fp16, which needs a GPU; on this machine use bf16 or leave it out.")
    return dtype


def device_of(accelerator: Accelerator) -> torch.device:
    """Return where this process trains; with several on a CPU accelerate numbers it, though there is but one."""
    device = accelerator.device
    return torch.device("cpu") if device.type == "cpu" else device


def prepare_recipe(config: RunConfig, accelerator: Accelerator) -> Recipe:
    """Load the base model and the recipe that trains it.

    Raises:
        ConfigError: if the limits of the timesteps or zero terminal SNR do not fit the model.
    """
    pipeline = load_pipeline(
        config.pretrained_model_name_or_path,
        revision=config.revision,
        variant=config.variant,
        cache_dir=config.cache_dir,
        dtype=torch.float32,
    )
    settings = RecipeSettings(
        device=device_of(accelerator),
        dtype=base_dtype(config, precision_of(config, accelerator)),
        train_text_encoder=config.train_text_encoder,
        prediction_type=config.prediction_type,
        weighting=weighting_of(config),
        least_time=config.min_timestep,
        most_time=config.max_timestep,
        zero_terminal_snr=config.rescale_zero_terminal_snr,
    )
    recipe = load_recipe(pipeline, settings)
    if config.enable_xformers_memory_efficient_attention:
        use_xformers(recipe.components.values())
    recipe.sample_time(1, torch.Generator())  # limits outside of the schedule are refused before anything is encoded
    return recipe


def side_of(config: RunConfig, recipe: Recipe) -> int:
    """Return the side of the pictures.

    Raises:
        ConfigError: if the model cannot take it.
    """
    side = config.resolution or recipe.side
    if side % recipe.multiple:
        near = max(1, round(side / recipe.multiple)) * recipe.multiple
        raise ConfigError(f"resolution is {side}; this model needs a multiple of {recipe.multiple}, such as {near}.")
    return side


def check_captions(
    items: Sequence[Item], groups: Sequence[Group], recipe: Recipe, config: RunConfig, reporter: Reporter
) -> None:
    """Report captions with more tokens than the model reads.

    Raises:
        DataError: for such captions, with ``on_long_caption`` at ``stop``.
    """
    counts = [(item, max(map(recipe.count_tokens, whole_texts(item, groups[item.group].edits)))) for item in items]
    long = [(item, count) for item, count in counts if count[0] > count[1]]
    if not long:
        return
    limit = long[0][1][1]
    which = ", ".join(f"{item.path.name} ({count} tokens)" for item, (count, _) in long[:3])
    text = f"{len(long)} of {len(items)} captions are longer than the {limit} tokens that the model reads: {which}"
    if config.on_long_caption == "stop":
        raise DataError(f"{text}. Shorten them, or allow cutting with --on_long_caption cut.")
    reporter.say(f"{text}; the rest of each is cut off.")


def prepare_dataset(
    items: Sequence[Item],
    recipe: Recipe,
    config: RunConfig,
    accelerator: Accelerator,
    reporter: Reporter,
    cache: Cache | None = None,
) -> Dataset:
    """Encode the pictures and captions, the first process before the others, which then find them in the cache."""
    groups = groups_of(config, items)
    if len(groups) > 1:
        reporter.say(shares(groups))
    check_captions(items, groups, recipe, config, reporter)
    framing = Framing(
        side=side_of(config, recipe),
        crops=1 if config.center_crop else config.random_crops,
        flip=config.random_flip,
        interpolation=config.image_interpolation_mode,
        seed=config.seed,
        live=config.no_cache,
    )
    buckets = plan_frames(items, config, framing.side, recipe.multiple)
    if buckets is not None:
        reporter.say(buckets.table(config.train_batch_size))
    cache = cache or Cache(None if config.no_cache else cache_folder())
    with accelerator.main_process_first():
        dataset = load_dataset(
            items,
            recipe,
            framing,
            cache,
            reporter=reporter,
            workers=config.dataloader_num_workers,
            groups=groups,
            buckets=buckets,
        )
    if cache.trouble:
        reporter.say(f"{cache.trouble}; nothing is kept for the next run.")
    if dataset.texts.is_open:
        reporter.say("captions have too many variants to be encoded before the run: they are encoded at each step")
    return dataset


def prepare_trainable(config: RunConfig, recipe: Recipe, computing: torch.dtype = torch.float32) -> Trainable:
    """Put a new adapter on the chosen modules, and pack the base if it is to be in few bits.

    Raises:
        MissingExtraError: if what packs it is not installed.
        UnknownNameError: if a pattern names no module.
    """
    parts = dict(recipe.components)
    modules = choose_in_all(parts, config.target_modules)
    dropouts = dropouts_of(config, modules)
    for part in parts.values():  # what takes less memory or drops out acts in training mode only
        part.train(config.gradient_checkpointing or any(dropouts.values()))
        order_channels(part)
        pack_base(part, config, computing)
        if config.gradient_checkpointing:
            enable_checkpointing(part)
    trainable = Trainable(
        parts,
        modules,
        rank=ranks_of(config, modules),
        alpha=alphas_of(config, modules),
        seed=config.seed,
        dropout=dropouts,
    )
    if config.remember_less:
        trainable.remember_less()
    set_first_values(trainable, parts, config)
    return trainable


def choose_in_all(parts: dict[str, nn.Module], patterns: Sequence[str]) -> dict[str, list[str]]:
    """Return the modules of each part that any pattern names; a pattern may concern one part only.

    Raises:
        UnknownNameError: if a pattern names no module of any part.
    """
    chosen: dict[str, set[str]] = {name: set() for name in parts}
    for pattern in patterns:
        found = {name: _matching(part, pattern) for name, part in parts.items()}
        if not any(found.values()):
            choose_modules(next(iter(parts.values())), [pattern])  # raises, naming what is nearest
        for name, paths in found.items():
            chosen[name].update(paths)
    ordered = {name: [path for path, _ in part.named_modules() if path in chosen[name]] for name, part in parts.items()}
    return {name: paths for name, paths in ordered.items() if paths}


def plan_of(
    config: RunConfig, pictures: int, groups: Sequence[Group], buckets: Buckets | None, accelerator: Accelerator
) -> Plan:
    """Return how a run of some pictures is cut into steps."""
    return make_plan(
        config,
        pictures,
        accelerator.num_processes,
        accelerator.process_index,
        batches=bucket_batches_per_epoch(config.train_batch_size, buckets) if buckets else None,
        samples=epoch_length([group.source for group in groups]),
    )


def prepare_loop(
    config: RunConfig, recipe: Recipe, dataset: Dataset, trainable: Trainable, accelerator: Accelerator
) -> Loop:
    """Put together the loop."""
    plan = plan_of(config, len(dataset), dataset.groups, dataset.buckets, accelerator)
    dtype = precision_of(config, accelerator)
    parameters, pieces = trainable.by_component(), trainable.named_parameters()
    rate = rate_of(config, trainable.modules)
    rates = {name: (plan.size if config.scale_lr else 1) * rate_in(config, name) for name in parameters}
    optimizer = Optimizer(parameters, rates, config, plan.steps, pieces)
    if rate is not None:
        optimizer.set_element_rates(pieces, rate)
    return Loop(
        recipe=recipe,
        dataset=dataset,
        trainable=trainable,
        optimizer=optimizer,
        plan=plan,
        accelerator=accelerator,
        scaler=torch.amp.GradScaler(accelerator.device.type, enabled=dtype is torch.float16),
        precision=dtype,
        seed=config.seed,
        longest=config.max_grad_norm,
        objective=objective_of(config),
        longest_change=config.scale_weight_norms,
        average=Average(parameters, config.ema_decay) if config.use_ema else None,
    )


def _matching(part: nn.Module, pattern: str) -> list[str]:
    try:
        return choose_modules(part, [pattern])
    except UnknownNameError:
        return []


def _launched_precision(accelerator: Accelerator) -> str:
    launched = str(accelerator.mixed_precision)
    return launched if launched in DTYPES else "no"


def order_channels(part: nn.Module) -> None:
    """Lay out convolutions channel by channel on a CPU: the same numbers, 4 to 8 % faster (decision 0018)."""
    if next(part.parameters()).device.type == "cpu":
        nn.Module.to(part, memory_format=torch.channels_last)  # type: ignore[reportCallIssue]  # stubs want a tensor too


def enable_checkpointing(part: Any) -> None:
    """Let a network remember less in training mode, and compute it again on the way back."""
    enable = getattr(part, "enable_gradient_checkpointing", None) or part.gradient_checkpointing_enable
    enable()
