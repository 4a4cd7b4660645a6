"""Two small LoRAs for the other examples to run with when they are given no files; trained when they are first needed.

Run: python examples/sample_adapters.py (one or two minutes on two cores; writes into sample-adapters/)
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import lorica
from lorica.demo.style import write_style
from lorica.demo.subject import write_subject

FOLDER = Path("sample-adapters")
PICTURES = {"subject": write_subject, "style": write_style}
FORMATS = {"subject": "diffusers", "style": "kohya"}
STEPS = 150


def sample_adapter(name: str) -> str:
    """File of the bundled ``subject`` (a zorblin), or of the bundled ``style`` (quoral), which is in Kohya's format."""
    file = FOLDER / f"{name}.safetensors"
    if not file.exists():
        with TemporaryDirectory() as folder:
            config = lorica.RunConfig(
                pretrained_model_name_or_path="bundled",
                train_data_dir=PICTURES[name](folder),
                train_batch_size=4,
                max_train_steps=STEPS,
                learning_rate=2e-3,
                lr_scheduler="cosine",
                rank=8,
                target_modules=("all-linear",),
                output_dir=f"{folder}/trained",
            )
            adapter = lorica.train(config, quiet=True).adapter
            lorica.write(adapter, file, format=FORMATS[name])
    return str(file)


if __name__ == "__main__":
    for name in PICTURES:
        print(sample_adapter(name))
