"""From a configuration to the parts of a run; everything below takes the settings of its own topic alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator

from lorica.adapters import Adapter
from lorica.data.batches import Buckets, bucket_batches_per_epoch, fill_buckets
from lorica.data.buckets import BucketPlan
from lorica.data.cache import Cache
from lorica.data.groups import Group
from lorica.data.items import Item
from lorica.data.mixture import epoch_length
from lorica.errors import ConfigError
from lorica.training import class_pictures
from lorica.training.adapter import order_channels, put_adapter, read_initial, set_first_values
from lorica.training.average import Average
from lorica.training.config.adapter import AdapterSettings, ComputeSettings
from lorica.training.config.config import RunConfig
from lorica.training.config.datasets import SetSettings
from lorica.training.config.idle import remarks
from lorica.training.config.inputs import DataSettings, PictureSettings
from lorica.training.config.objective import ObjectiveSettings
from lorica.training.config.optimizer import OptimizerSettings
from lorica.training.config.output import ValidationSettings
from lorica.training.config.per_layer import layers_in, rate_in, rate_of
from lorica.training.dataset.dataset import Dataset
from lorica.training.dataset.encoding import load_dataset
from lorica.training.dataset.framing import Framing, plan_frames
from lorica.training.dataset.sources import collect_items, groups_of, leave_out_unreadable, shares
from lorica.training.dataset.texts import check_captions
from lorica.training.dataset.validation import Validation, encode_held_out, hold_out
from lorica.training.device import device_of, precision_of
from lorica.training.loop import Loop
from lorica.training.memory.estimate import Memory, MicroBatch, estimate_memory
from lorica.training.optimizer import Optimizer
from lorica.training.output.trackers import tracked_accelerator
from lorica.training.plan import RunPlan
from lorica.training.progress import Reporter
from lorica.training.recipes import load_recipe
from lorica.training.recipes.load import base_dtype, load_pipeline, pack_base, use_xformers
from lorica.training.recipes.recipe import Recipe, RecipeSettings, Weighting


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInputs:
    """The pictures and the base model of a run, before anything is encoded.

    Args:
        items: the pictures that are trained on.
        held: the pictures that are held out.
        refused: paths of the pictures that cannot be read and are left out, each with the reason.
        recipe: the base model.
        side: that of the pictures, in pixels.
        sets: settings of the data sets.
        initial: the adapter that the run goes on from, if there is one.
        groups: what their pictures share.
        frames: the frame of each picture, if they are cut to several.
    """

    items: Sequence[Item]
    held: Sequence[Item]
    refused: dict[str, str]
    recipe: Recipe
    side: int
    sets: Sequence[SetSettings]
    initial: Adapter | None = None
    groups: Sequence[Group] = ()
    frames: BucketPlan | None = None


def make_accelerator(config: RunConfig) -> Accelerator:
    """The device, the other processes and the trackers, which begin with the run.

    Raises:
        ConfigError: if ``report_to`` names a tracker that accelerate does not know.
        MissingExtraError: if it is not installed.
    """
    torch.backends.cuda.matmul.allow_tf32 = config.allow_tf32
    return tracked_accelerator(config.report_to, config.output_dir / config.logging_dir)


def draw_class_pictures(config: RunConfig, accelerator: Accelerator, reporter: Reporter) -> None:
    """Draw the pictures of the class that are missing, with the base model alone."""
    if class_pictures.missing_pictures(config.part(DataSettings)) == 0:
        return
    without = {"with_prior_preservation": False, "class_data_dir": None, "num_class_images": None}
    others = config.model_copy(update=without).part(DataSettings)
    collect_items(
        others, config.seed, config.cache_dir, Reporter(quiet=True, logged=False)
    )  # faults in these are reported first
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            recipe = prepare_recipe(config, accelerator)
            data, side = config.part(DataSettings), side_of(config, recipe)
            class_pictures.draw_missing(data, config.seed, recipe, side, reporter)


def find_inputs(
    config: RunConfig, accelerator: Accelerator, reporter: Reporter, cache: Cache, *, lenient: bool = False
) -> RunInputs:
    """Find the pictures of a run and load its base model.

    With ``lenient``, pictures that cannot be read are left out, whatever ``on_bad_image`` says. The cache holds which
    pictures could be read.

    Raises:
        LoRAError: if the pictures, the model or the settings cannot be used.
    """
    data = config.part(DataSettings)
    others = (config.output_dir, config.validation_data_dir)
    (found, sets), refused = collect_items(data, config.seed, config.cache_dir, reporter, others), dict[str, str]()
    if lenient or config.on_bad_image == "skip":
        found, refused = leave_out_unreadable(found, cache, reporter)
    items, held = hold_out(found, sets, config.part(ValidationSettings), data, cache, reporter)
    recipe = prepare_recipe(config, accelerator)
    side = side_of(config, recipe)
    initial = read_initial(config.initial_adapter, recipe.components)
    whole = RunInputs(items=items, held=held, refused=refused, recipe=recipe, side=side, sets=sets, initial=initial)
    return with_items(config, whole, items)


def remarks_on(config: RunConfig, accelerator: Accelerator) -> list[str]:
    """What to say of settings that change nothing in this run, and may be meant all the same."""
    on_cpu = config.allow_tf32 and accelerator.device.type != "cuda"
    return [*remarks(config), *(["allow_tf32 changes nothing: it is for NVIDIA GPUs"] if on_cpu else [])]


def plan_for(config: RunConfig, found: RunInputs, accelerator: Accelerator) -> RunPlan:
    """Steps and batches of a run before its pictures are encoded."""
    members = fill_buckets(found.frames, [group.source for group in found.groups]) if found.frames else None
    return plan_of(config, len(found.items), found.groups, members, accelerator)


def with_items(config: RunConfig, whole: RunInputs, items: Sequence[Item]) -> RunInputs:
    """The same run with some of its pictures alone: their data sets and frames."""
    groups = groups_of(whole.sets, items)
    frames = plan_frames(items, config.part(PictureSettings), whole.side, whole.recipe.multiple)
    return replace(whole, items=items, groups=groups, frames=frames)


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
        dtype=base_dtype(config.base_precision, precision_of(config.part(ComputeSettings), accelerator)),
        train_text_encoder=config.train_text_encoder,
        prediction_type=config.prediction_type,
        weighting=_weighting(config),
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
    """Side of the pictures in pixels.

    Raises:
        ConfigError: if the model cannot take it.
    """
    side = config.resolution or recipe.side
    if side % recipe.multiple:
        near = max(1, round(side / recipe.multiple)) * recipe.multiple
        raise ConfigError(f"resolution is {side}; this model needs a multiple of {recipe.multiple}, such as {near}.")
    return side


def estimate(
    config: RunConfig, recipe: Recipe, side: int, accelerator: Accelerator, initial: Adapter | None = None
) -> Memory:
    """Memory that the run takes, before the adapter is put on the base."""
    compute = config.part(ComputeSettings)
    for network in recipe.components.values():
        order_channels(network)
    return estimate_memory(
        recipe,
        MicroBatch(config.train_batch_size, side, precision_of(compute, accelerator)),
        config.part(AdapterSettings),
        compute,
        config.part(OptimizerSettings),
        initial,
    )


def prepare_dataset(
    config: RunConfig, found: RunInputs, accelerator: Accelerator, reporter: Reporter, cache: Cache
) -> Dataset:
    """Encode the pictures and captions, the first process before the others, which then find them in the cache."""
    if len(found.groups) > 1:
        reporter.say(shares(found.groups))
    check_captions(found.items, found.groups, found.recipe, reporter, strict=config.on_long_caption == "stop")
    if found.frames is not None:
        reporter.say(found.frames.table(config.train_batch_size))
    with accelerator.main_process_first():
        dataset = load_dataset(
            found.items,
            found.recipe,
            _framing(config, found.side),
            cache,
            reporter=reporter,
            workers=config.dataloader_num_workers,
            groups=found.groups,
            buckets=found.frames,
        )
    if cache.trouble:
        reporter.say(f"{cache.trouble}; nothing is kept for the next run.")
    if dataset.texts.is_open:
        reporter.say("captions have too many variants to be encoded before the run: they are encoded at each step")
    return dataset


def prepare_validation(
    config: RunConfig, found: RunInputs, dataset: Dataset, cache: Cache, every: int
) -> Validation | None:
    """Encode the pictures that are held out, for a measurement every so many steps; None if there are none."""
    if not found.held:
        return None
    pictures = encode_held_out(found.held, found.recipe, dataset, _framing(config, found.side), cache)
    return Validation(pictures, config.validation_loss_levels, every)


def prepare_loop(
    config: RunConfig, recipe: Recipe, dataset: Dataset, accelerator: Accelerator, initial: Adapter | None = None
) -> Loop:
    """Move the encoders off the device, put a new adapter on the base, or the initial one, and build the loop.

    Raises:
        MissingExtraError: if the library that packs the base is not installed.
        UnknownNameError: if a pattern names no module or layer.
    """
    recipe.release_encoders(keep_text=dataset.texts.is_open, keep_pictures=config.no_cache)
    precision, networks = precision_of(config.part(ComputeSettings), accelerator), recipe.components
    for network in networks.values():
        order_channels(network)
        pack_base(network, config.base_precision, precision)
    # With the seed alone, two adapters trained with defaults would share their inputs, and mix when used together.
    key = f"{config.seed}/{dataset.digest}"
    trainable = put_adapter(networks, config.part(AdapterSettings), config.part(ComputeSettings), key, initial)
    if initial is None:
        set_first_values(trainable, networks, config.init_lora_weights, key)
    else:
        trainable.copy_from(initial)
    plan = plan_of(config, len(dataset), dataset.groups, dataset.buckets, accelerator)
    settings = config.part(OptimizerSettings)
    parameters, pieces = trainable.by_component(), trainable.named_parameters()
    rates = {name: (plan.size if config.scale_lr else 1) * rate_in(settings, name) for name in parameters}
    optimizer = Optimizer(parameters, rates, settings, plan.steps, pieces)
    if (rate := rate_of(settings, layers_in(trainable.modules))) is not None:
        optimizer.set_element_rates(pieces, rate)
    return Loop(
        recipe=recipe,
        dataset=dataset,
        trainable=trainable,
        optimizer=optimizer,
        plan=plan,
        accelerator=accelerator,
        scaler=torch.amp.GradScaler(accelerator.device.type, enabled=precision is torch.float16),
        precision=precision,
        seed=config.seed,
        longest=config.max_grad_norm,
        objective=config.part(ObjectiveSettings),
        unmasked=config.unmasked_weight,
        longest_change=config.scale_weight_norms,
        average=Average(parameters, config.ema_decay) if config.use_ema else None,
    )


def plan_of(
    config: RunConfig, pictures: int, groups: Sequence[Group], buckets: Buckets | None, accelerator: Accelerator
) -> RunPlan:
    """Steps and batches of a run over some pictures; without ``max_train_steps`` it lasts ``num_train_epochs``."""
    plan = RunPlan(
        steps=config.max_train_steps or 0,
        batch=config.train_batch_size,
        accumulation=config.gradient_accumulation_steps,
        processes=accelerator.num_processes,
        process=accelerator.process_index,
        pictures=pictures,
        batches=bucket_batches_per_epoch(config.train_batch_size, buckets) if buckets else None,
        samples=epoch_length([group.source for group in groups]),
    )
    return plan if plan.steps else plan.lasting(config.num_train_epochs)


def _framing(config: RunConfig, side: int) -> Framing:
    return Framing(
        side=side,
        crops=1 if config.center_crop else config.random_crops,
        flip=config.random_flip,
        interpolation=config.image_interpolation_mode,
        seed=config.seed,
        live=config.no_cache,
    )


def _weighting(config: RunConfig) -> Weighting | None:
    if config.debiased_estimation:
        return Weighting("debiased")
    if config.snr_gamma is None:
        return None
    return Weighting("soft_min_snr" if config.soft_min_snr else "min_snr", config.snr_gamma)
