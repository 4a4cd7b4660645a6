"""Build of the bundled base model from nothing, in stages that are kept, so that a stopped build continues."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPTokenizer

from lorica.demo.base.autoencoder import train_autoencoder
from lorica.demo.base.decoder import sharpen_decoder
from lorica.demo.base.denoiser import Denoiser, make_pictures, make_schedule, train_denoiser
from lorica.demo.base.tokenizer import make_tokenizer

AUTOENCODER_CYCLES, AUTOENCODER_STEPS = 2, 2000
DENOISER_STEPS = 12_000
DECODER_STEPS = 1500
PICTURES = 40_000


def build(work: Path, output: Path, denoiser_steps: int = DENOISER_STEPS) -> Path:
    """Train what ``work`` does not hold yet, write the pipeline to ``output`` in half precision; return ``output``."""
    work.mkdir(parents=True, exist_ok=True)
    autoencoder, tokenizer = _autoencoder(work / "vae"), make_tokenizer()
    pictures = make_pictures(autoencoder, PICTURES, seed=0)
    denoiser = train_denoiser(pictures, tokenizer, denoiser_steps, state=work / "denoiser.pt")
    sharpen_decoder(autoencoder, pictures, DECODER_STEPS)
    assemble(autoencoder, denoiser, tokenizer, output)
    return output


def assemble(autoencoder: AutoencoderKL, denoiser: Denoiser, tokenizer: CLIPTokenizer, output: Path) -> None:
    """Write the pipeline as a folder that stock diffusers loads, weights in float16."""
    parts: dict[str, Any] = {
        "vae": autoencoder,
        "text_encoder": denoiser.text_encoder,
        "tokenizer": tokenizer,
        "unet": denoiser.unet,
        "scheduler": make_schedule(),
        "safety_checker": None,
        "feature_extractor": None,
    }
    pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(output, safe_serialization=True)
    _forget_folders(output)
    _load_in_single_precision(output / "text_encoder" / "config.json")
    _write_older_tokenizer_files(tokenizer, output / "tokenizer")


def _autoencoder(folder: Path) -> AutoencoderKL:
    if not folder.exists():
        train_autoencoder(AUTOENCODER_CYCLES, AUTOENCODER_STEPS).save_pretrained(folder)
    return AutoencoderKL.from_pretrained(folder).eval()


def _forget_folders(output: Path) -> None:
    """Remove the folders that networks were loaded from, which diffusers notes in their configuration."""
    for path in output.glob("*/config.json"):
        config = json.loads(path.read_text("utf-8"))
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _load_in_single_precision(config: Path) -> None:
    """Set float32 in a config: transformers loads in the file's dtype, diffusers in float32, and the two must agree."""
    config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": "float32"}, indent=2) + "\n")


def _write_older_tokenizer_files(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write ``vocab.json`` and ``merges.txt`` too, for transformers before version 5."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
