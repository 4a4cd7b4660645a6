"""Keep many LoRAs loaded on one pipeline, in bounded memory, and switch between them in milliseconds.

Run: python examples/13_keep_many_at_hand.py [file.safetensors ...]
(without files it takes two samples, which are trained the first time, under many names)
"""

import sys
import time

import torch
from diffusers import StableDiffusionPipeline
from sample_adapters import sample_adapter

import lorica

FILES = sys.argv[1:] or [sample_adapter("subject"), sample_adapter("style")] * 10
PROMPT = "a large orange zorblin on a navy background"

pipe = StableDiffusionPipeline.from_pretrained(lorica.bundled_model())
pipe.set_progress_bar_config(disable=True)
loras = lorica.attach(pipe)

for number, file in enumerate(FILES):
    loras.load(file, name=f"adapter_{number}", strength=0.0)  # off: it costs its mapped file
loras.limit_memory(2_000_000)  # bytes of adapters that do not act but are kept ready
print(f"{len(loras.names)} adapters are loaded")

for name in (loras.names[0], loras.names[-1], loras.names[0]):
    started = time.perf_counter()
    loras.set({name: 1.0})
    switched = time.perf_counter() - started
    generator = torch.Generator().manual_seed(4)
    pipe(PROMPT, num_inference_steps=10, generator=generator).images[0].save(f"{name}.png")
    print(f"{name}: switched in {1000 * switched:.1f} ms")

loras.clear()  # all of them off, and the limit with them
print(loras)
