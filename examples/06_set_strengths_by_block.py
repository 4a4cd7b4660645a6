"""Find out which blocks of the model a LoRA works through, by switching on a part of it at a time.

Run: python examples/06_set_strengths_by_block.py [file.safetensors]
(without a file it takes a sample, which is trained the first time)
"""

import sys

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from sample_adapters import sample_adapter

import lorica

FILE = sys.argv[1] if len(sys.argv) > 1 else sample_adapter("style")
PROMPT = "a large orange heart on a navy background"

pipe = StableDiffusionPipeline.from_pretrained(lorica.bundled_model())
pipe.set_progress_bar_config(disable=True)
loras = lorica.attach(pipe)
loras.load(FILE, name="mine")


def draw(strength: object, file: str) -> Image.Image:
    """Make a picture from the same noise each time."""
    loras.set({"mine": strength})
    generator = torch.Generator().manual_seed(4)
    picture = pipe(PROMPT, num_inference_steps=15, generator=generator).images[0]
    picture.save(file)
    return picture


whole, base = draw(1.0, "all_blocks.png"), draw(0.0, "no_block.png")
parts = {
    "down": {"unet": {"down": 1.0, "mid": 0.0, "up": 0.0}},
    "mid": {"unet": {"down": 0.0, "mid": 1.0, "up": 0.0}},
    "up": {"unet": {"down": 0.0, "mid": 0.0, "up": 1.0}},
    "one_block": {"unet": {"*": 0.0, "up": {"block_0": 1.0}}},  # by pattern, then by name: later entries win
    "cross_attention": {"unet": {"*": 0.0, "*.attn2.*": 1.0}},
}
for name, strength in parts.items():
    change = np.abs(np.asarray(draw(strength, f"only_{name}.png"), float) - np.asarray(base, float)).mean()
    print(f"{name:16} moves a pixel by {change:5.1f} of 255")
print(f"all of it        moves a pixel by {np.abs(np.asarray(whole, float) - np.asarray(base, float)).mean():5.1f}")
