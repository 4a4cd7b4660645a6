"""Let the strength of a LoRA change from step to step of one picture, by a list, a function, a shape or a prompt's tag.

Run: python examples/14_schedule_a_strength.py [folder_of_adapters style]
(without them it takes a sample, which is trained the first time)
"""

import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from sample_adapters import sample_adapter

import lorica

FOLDER, NAME = sys.argv[1:3] or (Path(sample_adapter("style")).parent, "style")
PROMPT, STEPS = "a large orange zorblin on a navy background", 10

pipe = StableDiffusionPipeline.from_pretrained(lorica.bundled_model())
pipe.set_progress_bar_config(disable=True)
loras = lorica.attach(pipe)
loras.load(f"{FOLDER}/{NAME}.safetensors", name=NAME, strength=0.0)

schedules = {
    "list": [1.5] * 3 + [1.0] * 3 + [0.2] * 4,  # one strength a step
    "function": lambda progress: 1.0 - progress**2,  # of 0 at the first step to 1 at the last
    "shape": lorica.Shape("cosine", first=0.0, last=1.0),
    "window": lorica.Shape("constant", 1.0, start=0.5),  # off in the first half
}

for name, schedule in schedules.items():
    loras.schedule({NAME: schedule})  # for the next call of the pipeline; then all is as before
    generator = torch.Generator().manual_seed(4)
    pipe(PROMPT, num_inference_steps=STEPS, generator=generator).images[0].save(f"{name}.png")
print(f"after the calls: {loras.strengths}")

loras.clear()
tagged = lorica.prompt(pipe, f"{PROMPT} <lora:{NAME}:1@0.5-1>", folder=FOLDER)
tagged(num_inference_steps=STEPS, generator=torch.Generator().manual_seed(4)).images[0].save("tag.png")
