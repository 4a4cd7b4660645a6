"""Name LoRAs in the prompt, as in A1111's web UI: strengths for text and picture, a part of the steps, block weights.

Run: python examples/07_name_adapters_in_a_prompt.py
(two samples are taken, which are trained the first time)
"""

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from sample_adapters import sample_adapter

import lorica

FOLDER = Path(sample_adapter("subject")).parent
sample_adapter("style")

pipe = StableDiffusionPipeline.from_pretrained(lorica.bundled_model())
pipe.set_progress_bar_config(disable=True)

BLOCKS = ",".join(["1"] + ["0"] * 6 + ["1"] * 5)  # 12 numbers, as for SDXL: text, inputs, middle, outputs
prompts = {
    "plain": "a large orange zorblin on a navy background",
    "both": "a large orange zorblin on a navy background <lora:subject:0.9> <lora:style:0.6>",
    "no_text": "a large orange zorblin on a navy background <lora:subject:te=0:unet=0.9>",
    "late": "a large orange zorblin on a navy background <lora:subject> <lora:style:1@0.5-1>",
    "outputs": f"a large orange zorblin on a navy background <lora:subject:1:lbw={BLOCKS}>",
}
for name, prompt in prompts.items():
    tagged = lorica.prompt(pipe, prompt, folder=FOLDER)
    picture = tagged(num_inference_steps=15, generator=torch.Generator().manual_seed(4)).images[0]
    picture.save(f"{name}.png")
    print(f"{name}.png: {tagged.text!r} with {[tag.name for tag in tagged.tags]}")

print(f"afterwards loaded: {lorica.attach(pipe).names}")  # nothing stays

try:
    lorica.prompt(pipe, "a heart <lora:stile:0.8>", folder=FOLDER)()
except lorica.LoRAError as error:
    print(f"a name that is not there: {error}")
