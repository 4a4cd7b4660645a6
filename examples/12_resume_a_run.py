"""Go on from a checkpoint: the same adapter, bit for bit, as a run that was never interrupted.

Run: python examples/12_resume_a_run.py [FOLDER [STEPS]]
(without a folder, the six pictures of the bundled subject are drawn into pictures/)
"""

import sys
from pathlib import Path

import lorica
from lorica.demo.subject import write_lesson

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else write_lesson("pictures", ordinary=0)
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 8

settings = {
    "pretrained_model_name_or_path": "bundled",
    "train_data_dir": folder,
    "train_batch_size": 2,
    "max_train_steps": steps,
    "checkpointing_steps": steps // 2,
    "learning_rate": 1e-3,
    "num_validation_images": 0,
    "overwrite_output_dir": True,
}

whole = lorica.train(lorica.RunConfig(**settings, output_dir="whole-run"), quiet=True)
print(f"whole run: {whole.steps} steps, {sorted(path.name for path in Path('whole-run').glob('checkpoint-*'))}")

checkpoint = f"whole-run/checkpoint-{steps // 2}"
resumed = lorica.train(
    lorica.RunConfig(**settings, output_dir="resumed-run", resume_from_checkpoint=checkpoint), quiet=True
)
print(f"from {checkpoint}: {resumed.steps} steps in all")
print(f"the same adapter, bit for bit: {resumed.adapter == whole.adapter}")

middle = lorica.read(checkpoint)  # a checkpoint is a folder with an adapter, like any other
print(f"and another one than the checkpoint's own: {middle != whole.adapter}")
