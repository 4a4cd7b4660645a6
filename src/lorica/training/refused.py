"""Flags of the diffusers scripts that Lorica knows and does not offer, each with the reason and what to do."""

from __future__ import annotations

REFUSED: dict[str, str] = {
    "dataset_name": "name a folder with train_data_dir.",
    "dataset_config_name": "name a folder with train_data_dir.",
    "image_column": "the pictures of a folder are named by file_name in metadata.jsonl.",
    "tokenizer_name": "the tokenizer is that of the base model.",
    "enable_npu_flash_attention": "there is no support for that hardware.",
    "hub_token": "it would be written into run.toml; run `hf auth login` or set HF_TOKEN",
    "use_dora": "only LoRA is trained.",
    "cache_latents": "it is always on.",
    "pre_compute_text_embeddings": "it is always on.",
}
