"""Options of Kohya's sd-scripts: those that have a meaning here become settings, and the others say what to do.

Many of them are second names of settings (``--network_dim``) and stand with these. Here are those that say the same in
another way, and those that are not offered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from lorica.errors import ConfigError
from lorica.printing import expanded, read_lines

Values = dict[str, Any]
_LINE_OPTION = re.compile(r"\s--(\w+)\s+((?:(?!\s--\w+\s).)*)")

# Switches that say what is so here anyway.
ALWAYS_SO = {
    "sdpa": "torch's own attention is the default",
    "cache_latents_to_disk": "latents are cached on disk",
    "save_state": "every checkpoint holds the state of the run",
    "save_state_on_train_end": "every checkpoint holds the state of the run",
    "network_train_unet_only": "the text encoder is trained with train_text_encoder alone",
    "no_half_vae": "the autoencoder is always fp32",
    "v2": "the model says its version",
    "persistent_data_loader_workers": "pictures are encoded once",
}

KOHYA_REFUSED: dict[str, str] = {
    "network_args": "write its parts as settings, such as target_modules or lora_dropout.",
    "network_train_text_encoder_only": "the UNet is always trained.",
    "dim_from_weights": "initial_adapter brings its ranks along; leave it out.",
    "rank_dropout": "write --lora_dropout, a share of the inputs.",
    "module_dropout": "write --lora_dropout, a share of the inputs.",
    "conv_dim": "write --target_modules all with --rank_pattern 'GLOB=RANK'.",
    "conv_alpha": "write --alpha_pattern 'GLOB=ALPHA'.",
    "save_precision": "the adapter is written in fp32; lorica convert writes other precisions.",
    "save_last_n_epochs": "write --checkpoints_total_limit, the number of checkpoints that are kept.",
    "save_last_n_steps": "write --checkpoints_total_limit, the number of checkpoints that are kept.",
    "save_n_epoch_ratio": "write --checkpointing_epochs, the epochs between checkpoints.",
    "initial_epoch": "write --resume_from_checkpoint: a run knows its step.",
    "initial_step": "write --resume_from_checkpoint: a run knows its step.",
    "skip_until_initial_step": "write --resume_from_checkpoint: nothing has to be skipped.",
    "sample_sampler": "previews use the sampler of the base model.",
    "caption_extension": "captions are .txt files, or a metadata.jsonl.",
    "caption_extention": "captions are .txt files, or a metadata.jsonl.",
    "in_json": "write the captions into metadata.jsonl.",
    "dataset_config": "write [[datasets]] tables into the run file.",
    "config_file": "name a run file as the argument: lorica train run.toml.",
    "conditioning_data_dir": "masks lie in a folder mask/ beside the pictures; add --masked_loss.",
    "color_aug": "colours are not changed.",
    "face_crop_aug_range": "pictures are not cut by faces.",
    "weighted_captions": "captions are read as they are.",
    "max_token_length": "the text encoder reads as many tokens as its pipeline does.",
    "token_warmup_min": "write --tag_dropout, a share of the tags.",
    "token_warmup_step": "write --tag_dropout, a share of the tags.",
    "caption_dropout_every_n_epochs": "write --caption_dropout, a share of all captions.",
    "fp8_base": "write --base_precision int8 or nf4.",
    "full_fp16": "write --base_precision fp16; the adapter itself stays fp32.",
    "full_bf16": "write --base_precision bf16; the adapter itself stays fp32.",
    "lowram": "write --base_precision int8, or --remember_less.",
    "mem_eff_attn": "torch's own attention needs as little memory; leave it out.",
    "vae": "the autoencoder is that of the base model; save a pipeline with another one.",
    "vae_batch_size": "pictures are encoded one by one, once.",
    "adaptive_noise_scale": "write --noise_offset alone.",
    "noise_offset_random_strength": "write --noise_offset alone.",
    "scale_v_pred_loss_like_noise_pred": "write --snr_gamma 5.",
    "v_pred_like_loss": "write --snr_gamma 5.",
    "use_lion_optimizer": "write --optimizer with the path of its class.",
    "lr_decay_steps": "the rate falls over the whole run, as lr_scheduler says.",
    "lr_scheduler_type": "write --lr_scheduler with a schedule of diffusers.",
    "lr_scheduler_args": "write --lr_scheduler, --lr_num_cycles and --lr_power.",
    "block_lr": "write --learning_rate_pattern 'GLOB=RATE'.",
    "training_comment": "write it into the model card, README.md.",
    "log_prefix": "write --logging_dir, a folder for each run.",
    "wandb_api_key": "it would be written into run.toml; run `wandb login`.",
    "huggingface_repo_id": "write --push_to_hub --hub_model_id USER/NAME.",
    "base_weights": "fuse them into the base first: loras.fuse, loras.detach(keep_fused=True), save_pretrained.",
}


def network_module(value: Any, values: Values) -> Values:
    """LoRA is what is trained; other modules of Kohya's are not."""
    del values
    if str(value) not in ("networks.lora", "networks.lora_flux", "networks.lora_sd3"):
        raise ConfigError(f"network_module is {value}, and only LoRA (networks.lora) is trained here: leave it out.")
    return {}


def unet_lr(value: Any, values: Values) -> Values:
    """The UNet's rate is ``learning_rate``; the one given beside it is that of the text encoder, if that is trained."""
    common = values.pop("learning_rate", None)
    trained = str(values.get("train_text_encoder", False)).lower() == "true"
    other = {"text_encoder_lr": common} if common is not None and trained and "text_encoder_lr" not in values else {}
    return {"learning_rate": value, **other}


def v_parameterization(value: Any, values: Values) -> Values:
    """The model predicts velocities."""
    del values
    return {"prediction_type": "v_prediction"} if str(value).lower() != "false" else {}


def random_crop(value: Any, values: Values) -> Values:
    """The opposite of ``center_crop``."""
    del values
    return {"center_crop": str(value).lower() == "false"}


def output_name(value: Any, values: Values) -> Values:
    """The name of the file, beside which Kohya's ``save_model_as`` says its kind."""
    del values
    return {"save_model_as": value}


def reg_data_dir(value: Any, values: Values) -> Values:
    """A regularisation set."""
    return {"datasets": [*values.pop("datasets", ()), {"train_data_dir": str(value), "is_reg": True}]}


def sample_prompts(value: Any, values: Values) -> Values:
    """Prompts of previews in a file, one a line; options behind them must be the same in every line.

    Raises:
        ConfigError: if the file cannot be read, holds no prompt, or options that a preview does not have.
    """
    del values
    try:
        texts = read_lines(expanded(str(value)))
    except OSError as error:
        raise ConfigError(f"cannot read the prompts in sample_prompts {value}: {error}.") from error
    if not texts:
        raise ConfigError(f"sample_prompts {value} holds no prompt; write one a line.")
    found = {"validation_prompt": [_LINE_OPTION.sub("", text).strip() for text in texts]}
    options = [{name: text.strip() for name, text in _LINE_OPTION.findall(line)} for line in texts]
    for name in dict.fromkeys(name for line in options for name in line):
        found |= _common_option(name, [line.get(name) for line in options], value)
    return found


_SAMPLE_OPTIONS = {
    "n": "validation_negative_prompt", "s": "validation_num_inference_steps", "l": "validation_guidance_scale",
}  # fmt: skip
_SIZES = ("w", "h", "d")  # previews have the run's resolution and seed


def _common_option(name: str, given: list[str | None], where: object) -> Values:
    if name in _SIZES:
        return {}
    if name not in _SAMPLE_OPTIONS or len(set(given)) > 1:
        known = ", ".join(f"--{mark} ({setting})" for mark, setting in _SAMPLE_OPTIONS.items())
        raise ConfigError(f"sample_prompts {where}: --{name} must be one of {known}, and the same in every line.")
    return {_SAMPLE_OPTIONS[name]: given[0]}


_TRANSLATORS = (network_module, unet_lr, output_name, v_parameterization, random_crop, reg_data_dir, sample_prompts)
TRANSLATED: dict[str, Callable[[Any, Values], Values]] = {translate.__name__: translate for translate in _TRANSLATORS}
SWITCHES = (*ALWAYS_SO, "v_parameterization", "random_crop")


def from_kohya(values: Mapping[str, Any]) -> Values:
    """Settings by their names here, from settings that may have Kohya's.

    Raises:
        ConfigError: if one cannot be meant here.
    """
    rest = {name: value for name, value in values.items() if name not in ALWAYS_SO}
    if str(rest.get("save_model_as", "")).lower() == "safetensors":  # Kohya's: how, not under which name
        del rest["save_model_as"]
    for name in [name for name in TRANSLATED if name in rest]:
        found = TRANSLATED[name](rest.pop(name), rest)
        for setting in found:
            if setting in rest:
                raise ConfigError(f"{name} and {setting} both say the same: give one of them.")
        rest |= found
    side = rest.get("resolution")
    if isinstance(side, str) and "," in side:
        rest["resolution"] = _side(side)
    if str(rest.get("loss_type", "")).lower() == "l2":
        rest["loss_type"] = "mse"
    return rest


def _side(text: str) -> str:
    sides = {side.strip() for side in text.split(",")}
    if len(sides) > 1:
        raise ConfigError(f"resolution is one side here, got {text}: for other shapes use_aspect_ratio_buckets.")
    return sides.pop()
