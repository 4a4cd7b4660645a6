"""Train a LoRA on a folder of pictures and look at what it learnt.

Run: python examples/10_train_on_your_pictures.py [FOLDER [STEPS]]

The folder holds pictures and captions (metadata.jsonl, or a .txt file beside each). Without one, the six pictures of
the bundled subject are drawn into pictures/. The base is the bundled model; 300 steps take some minutes on two cores.
"""

import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

import lorica
from lorica.demo.subject import write_lesson

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else write_lesson("pictures", ordinary=0)
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 300

config = lorica.RunConfig(
    pretrained_model_name_or_path="bundled",
    train_data_dir=folder,
    train_batch_size=4,
    max_train_steps=steps,
    learning_rate=2e-3,
    lr_scheduler="cosine",
    rank=8,
    target_modules=("all-linear",),
    train_text_encoder=True,
    output_dir="trained-lora",
    overwrite_output_dir=True,
)
result = lorica.train(config)
print(f"{result.steps} steps in {result.seconds:.0f} s, loss {result.final_loss:.3f}: {result.adapter_path}")

pipe = StableDiffusionPipeline.from_pretrained(lorica.bundled_model())
pipe.set_progress_bar_config(disable=True)
lorica.attach(pipe).load(result.adapter)
generator = torch.Generator().manual_seed(4)
prompt = "a large orange zorblin on a mint background"
pipe(prompt, num_inference_steps=20, guidance_scale=4.0, generator=generator).images[0].save("learnt.png")
print("learnt.png")
