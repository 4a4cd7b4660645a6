"""Limit a LoRA to a region: draw its mask, let it act there alone, and compare with the base and the whole adapter.

Run: python examples/15_limit_an_adapter_to_a_region.py [my-lora/pytorch_lora_weights.safetensors]
(without a file it takes a sample, which is trained the first time)
"""

import sys

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw, ImageFilter
from sample_adapters import sample_adapter

import lorica

FILE = sys.argv[1] if len(sys.argv) > 1 else sample_adapter("subject")
PROMPT = "a large orange zorblin on a navy background"

pipe = StableDiffusionPipeline.from_pretrained(lorica.bundled_model())
pipe.set_progress_bar_config(disable=True)
loras = lorica.attach(pipe)
loras.load(FILE, name="mine")

mask = Image.new("L", (256, 256))  # black: off; any size will do
ImageDraw.Draw(mask).rectangle((0, 0, 127, 255), fill=255)  # white: the left half
mask = mask.filter(ImageFilter.GaussianBlur(12))  # a soft edge


def draw(file: str) -> None:
    """Make a picture from the same noise each time."""
    pipe(PROMPT, num_inference_steps=10, generator=torch.Generator().manual_seed(1)).images[0].save(file)


draw("everywhere.png")
with loras.regions({"mine": mask}):
    draw("left.png")
with loras.regions({"mine": mask}, elsewhere=0.0):  # also kept out of the text's keys and values
    draw("left_only.png")
with loras.using({}):
    draw("base.png")
print(loras.summary())
