"""Draw a batch in which each prompt has its own LoRAs at its own strengths, in one pass, also step by step.

Run: python examples/09_one_adapter_per_sample.py [subject.safetensors style.safetensors]
(without files it takes two samples, which are trained the first time)
"""

import sys

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from sample_adapters import sample_adapter

import lorica

SUBJECT, STYLE = sys.argv[1:3] or (sample_adapter("subject"), sample_adapter("style"))

pipe = StableDiffusionPipeline.from_pretrained(lorica.bundled_model())
pipe.set_progress_bar_config(disable=True)
loras = lorica.attach(pipe)
loras.load(SUBJECT, name="subject")
loras.load(STYLE, name="style")

requests = {
    "a large orange zorblin on a navy background": {"subject": 1.0},
    "a small red heart on a white background": {"style": 0.8},
    "a large orange zorblin on a mint background": {"subject": 0.8, "style": 0.5},
    "a large blue star on a pink background": {},  # the base model, bit for bit
}


def draw() -> list[Image.Image]:
    """Make the whole batch, each picture from the same noise each time."""
    noise = [torch.Generator().manual_seed(4) for _ in requests]
    return pipe(list(requests), num_inference_steps=15, generator=noise).images


loras.per_sample(list(requests.values()))
pictures = draw()
courses = [{"subject": lambda progress: 1.0 - progress}, {}, {"style": lambda progress: progress}, {}]
loras.schedule(courses)  # each sample follows its own, for the next call
pictures += draw()
loras.set({})  # ends the sets

side = pictures[0].width
sheet = Image.new("RGB", (side * len(requests), side * 2))
for number, picture in enumerate(pictures):
    sheet.paste(picture, (number % len(requests) * side, number // len(requests) * side))
sheet.save("per_sample.png")
print("per_sample.png")
