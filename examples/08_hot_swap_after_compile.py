"""Compile the model once, then load, swap, weigh and remove LoRAs of any rank: nothing is compiled again.

Run: python examples/08_hot_swap_after_compile.py [subject.safetensors style.safetensors]
(without files it takes two samples, which are trained the first time)
"""

import sys
import time

import torch
from diffusers import StableDiffusionPipeline
from sample_adapters import sample_adapter

import lorica

SUBJECT, STYLE = sys.argv[1:3] or (sample_adapter("subject"), sample_adapter("style"))
PROMPT = "a large orange zorblin on a navy background"
BACKEND = "inductor" if torch.cuda.is_available() else "aot_eager"  # quick to compile; the rules are the same

pipe = StableDiffusionPipeline.from_pretrained(lorica.bundled_model())
pipe.set_progress_bar_config(disable=True)

loras = lorica.attach(pipe)
loras.reserve(rank=32)  # room for all adapters together, before compiling
pipe.unet = torch.compile(pipe.unet, backend=BACKEND)


def draw(name: str) -> None:
    """Make a picture from the same noise each time."""
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(4)
    pipe(PROMPT, num_inference_steps=4, generator=generator).images[0].save(f"{name}.png")
    print(f"{name}.png in {time.perf_counter() - started:.1f} s: {loras.strengths}")


draw("base")  # compiles
torch.compiler.set_stance("fail_on_recompile")  # from here on a compilation would be an error

loras.load(SUBJECT, name="mine")
draw("subject")
loras.load(STYLE, name="mine", strength=0.8, replace=True)  # hot swap: one in the place of the other, all or nothing
draw("style")
loras.load(SUBJECT, name="subject", strength=0.7)
draw("both")
loras.clear()
draw("base_again")

torch.compiler.set_stance("default")
