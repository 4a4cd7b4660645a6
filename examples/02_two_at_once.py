"""Run two LoRAs at once, each at a strength of its own, and stronger in one part of the model than in another.

Run: python examples/02_two_at_once.py [subject.safetensors style.safetensors]
(without files it takes two samples, which are trained the first time)
"""

import sys

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from sample_adapters import sample_adapter

import lorica

SUBJECT, STYLE = sys.argv[1:3] or (sample_adapter("subject"), sample_adapter("style"))
PROMPT = "a large orange zorblin on a navy background"

pipe = StableDiffusionPipeline.from_pretrained(lorica.bundled_model())
pipe.set_progress_bar_config(disable=True)

loras = lorica.attach(pipe)
loras.load(SUBJECT, name="subject")
loras.load(STYLE, name="style")

choices = {
    "base": {},
    "subject": {"subject": 1.0},
    "style": {"style": 1.0},
    "both": {"subject": 0.8, "style": 0.7},
    "both_style_in_the_upper_half": {"subject": 0.8, "style": {"unet": {"down": 0.1, "up": 1.0}}},
}

pictures = []
for name, strengths in choices.items():
    with loras.using(strengths):  # what was active before comes back after the block
        generator = torch.Generator().manual_seed(4)
        pictures.append(pipe(PROMPT, num_inference_steps=20, guidance_scale=4.0, generator=generator).images[0])
    print(f"{name}: {strengths}")

side = pictures[0].width
row = Image.new("RGB", (side * len(pictures), side))
for column, picture in enumerate(pictures):
    row.paste(picture, (column * side, 0))
row.save("two_at_once.png")
