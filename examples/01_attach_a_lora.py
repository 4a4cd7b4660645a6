"""Attach one LoRA to a pipeline and turn its dial.

Run: python examples/01_attach_a_lora.py [trained-lora/pytorch_lora_weights.safetensors]
(example 10 makes that file; so does any trainer for your own base model. Without one, a sample is trained first.)
"""

import sys

import torch
from diffusers import StableDiffusionPipeline
from sample_adapters import sample_adapter

import lorica

FILE = sys.argv[1] if len(sys.argv) > 1 else sample_adapter("subject")
PROMPT = "a large orange zorblin on a mint background"

pipe = StableDiffusionPipeline.from_pretrained(lorica.bundled_model())
pipe.set_progress_bar_config(disable=True)

loras = lorica.attach(pipe)
loras.load(FILE, name="mine", strength=1.0)
print(loras)

for strength in (0.0, 0.5, 1.0):
    loras.set({"mine": strength})
    generator = torch.Generator().manual_seed(4)
    image = pipe(PROMPT, num_inference_steps=20, guidance_scale=4.0, generator=generator).images[0]
    image.save(f"strength_{strength}.png")
    print(f"strength {strength}: strength_{strength}.png")

loras.detach()  # the pipeline is again what it was, bit for bit
