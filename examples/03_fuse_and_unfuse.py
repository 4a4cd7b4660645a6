"""Put two LoRAs into the weights, take one of them out again, then the other: the original weights, bit for bit.

Run: python examples/03_fuse_and_unfuse.py [subject.safetensors style.safetensors]
(without files it takes two samples, which are trained the first time)
"""

import sys

import torch
from diffusers import StableDiffusionPipeline
from sample_adapters import sample_adapter

import lorica

SUBJECT, STYLE = sys.argv[1:3] or (sample_adapter("subject"), sample_adapter("style"))
PROMPT = "a large orange zorblin on a navy background"

pipe = StableDiffusionPipeline.from_pretrained(lorica.bundled_model())
pipe.set_progress_bar_config(disable=True)


def draw(name: str) -> bytes:
    generator = torch.Generator().manual_seed(4)
    picture = pipe(PROMPT, num_inference_steps=10, guidance_scale=4.0, generator=generator).images[0]
    picture.save(f"{name}.png")
    return picture.tobytes()


before = {name: tensor.clone() for name, tensor in pipe.unet.state_dict().items()}
base = draw("base")

loras = lorica.attach(pipe)
loras.load(SUBJECT, name="subject")
loras.load(STYLE, name="style")

loras.fuse({"subject": 0.8, "style": 0.7})  # inside the weights: no cost at any step
draw("both")
pipe.save_pretrained("fused")  # an ordinary model, for any program that reads diffusers' folders

loras.unfuse("style")  # the other one stays
draw("subject")
print(loras.summary())

loras.unfuse()
same = all(torch.equal(tensor, before[name]) for name, tensor in pipe.unet.state_dict().items())
print(f"the weights are the original ones, bit for bit: {same and draw('base_again') == base}")
