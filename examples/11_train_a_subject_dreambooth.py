"""Train one subject the DreamBooth way: one caption for its pictures, and pictures of its class so that they stay.

Run: python examples/11_train_a_subject_dreambooth.py [FOLDER [STEPS]]

Without a folder, the six pictures of the bundled subject are drawn into pictures/. The class pictures are drawn by the
base model itself, into class-pictures/. The base is the bundled model; 200 steps take some minutes on two cores.
"""

import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

import lorica
from lorica.demo.subject import write_lesson

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else write_lesson("pictures", ordinary=0)
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 200

config = lorica.RunConfig(
    pretrained_model_name_or_path="bundled",
    instance_data_dir=folder,
    instance_prompt="a zorblin",  # the caption of every picture of the subject
    with_prior_preservation=True,
    class_data_dir="class-pictures",
    class_prompt="a large orange circle on a white background",  # what the subject must not wash out
    num_class_images=4,  # missing ones are drawn, each from a seed of its own
    train_text_encoder=True,
    train_batch_size=2,
    max_train_steps=steps,
    learning_rate=2e-3,
    lr_scheduler="cosine",
    rank=4,
    output_dir="dreambooth-lora",
    overwrite_output_dir=True,
)
result = lorica.train(config)
print(f"{result.steps} steps in {result.seconds:.0f} s, loss {result.final_loss:.3f}: {result.adapter_path}")

pipe = StableDiffusionPipeline.from_pretrained(lorica.bundled_model())
pipe.set_progress_bar_config(disable=True)
loras = lorica.attach(pipe)
loras.load(result.adapter_path, name="subject")
for name, prompt in {"subject": "a zorblin on a mint background", "class": str(config.class_prompt)}.items():
    generator = torch.Generator().manual_seed(4)
    pipe(prompt, num_inference_steps=20, generator=generator).images[0].save(f"{name}.png")
    print(f"{name}.png: {prompt}")
