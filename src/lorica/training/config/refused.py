"""Options of other trainers that Lorica knows and does not offer, each with the reason and what to do."""

from __future__ import annotations

from lorica.training.config.kohya import KOHYA_REFUSED

_FLOWS = "it is for models that predict flows, which this version does not train."
_PIXELS = "it is for models without an autoencoder, which this version does not train."
_PIVOTAL = "new tokens are not learnt; train_text_encoder with a rare word as trigger_word comes near."
_PRODIGY = "write --optimizer_args, such as beta3=0.99 decouple=true use_bias_correction=true safeguard_warmup=true."

REFUSED: dict[str, str] = {
    **KOHYA_REFUSED,
    # the base model
    "tokenizer_name": "the tokenizer is that of the base model.",
    "pretrained_vae_model_name_or_path": "the autoencoder is that of the base model; save a pipeline with another one.",
    "enable_npu_flash_attention": "there is no support for that hardware.",
    "text_encoder_use_attention_mask": _PIXELS,
    "tokenizer_max_length": _PIXELS,
    "class_labels_conditioning": _PIXELS,
    "max_sequence_length": _FLOWS,
    "clip_skip": "the text encoder is used as the pipeline uses it.",
    # pictures
    "sample_batch_size": "class pictures are drawn one by one: then each depends on its seed alone.",
    "prior_generation_precision": "class pictures are drawn in the precision of the base model: base_precision.",
    "aspect_ratio_buckets": "frames follow from resolution: use_aspect_ratio_buckets with bucket_reso_steps.",
    # the loss
    "do_edm_style_training": "the noise schedule is that of the base model.",
    "debug_loss": "a loss that is not finite stops the run and names its pictures; every loss is in metrics.jsonl.",
    "guidance_scale": f"{_FLOWS} For previews there is validation_guidance_scale.",
    "weighting_scheme": f"{_FLOWS} For others there is snr_gamma.",
    "logit_mean": _FLOWS,
    "logit_std": _FLOWS,
    "mode_scale": _FLOWS,
    # the optimizer
    "prodigy_beta3": _PRODIGY,
    "prodigy_decouple": _PRODIGY,
    "prodigy_use_bias_correction": _PRODIGY,
    "prodigy_safeguard_warmup": _PRODIGY,
    "adam_weight_decay_text_encoder": "adam_weight_decay is that of all components.",
    # the adapter
    "use_dora": "only LoRA is trained.",
    "lora_layers": "write --target_modules with presets or globs, such as '*.to_k'.",
    "lora_unet_blocks": "write --target_modules with globs, such as 'up_blocks.1.*.to_k'.",
    "use_blora": "write --target_modules with globs on the blocks that are meant.",
    "token_abstraction": _PIVOTAL,
    "num_new_tokens_per_abstraction": _PIVOTAL,
    "initializer_concept": _PIVOTAL,
    "train_text_encoder_ti": _PIVOTAL,
    "train_text_encoder_ti_frac": _PIVOTAL,
    "train_text_encoder_frac": "the text encoder is trained to the end; train two runs to stop it earlier.",
    # what is written
    "output_kohya_format": "lorica convert FILE OUT --to kohya writes the result in that format.",
    "validation_images": "previews are drawn from prompts alone.",
    "skip_final_inference": "write --num_validation_images 0.",
    "hub_token": "it would be written into run.toml; run `hf auth login` or set HF_TOKEN",
}
