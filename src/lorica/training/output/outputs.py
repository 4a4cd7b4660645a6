"""The result of a run: the adapter file with complete metadata, and a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from torch import Tensor

from lorica.adapters import Adapter
from lorica.errors import FileError
from lorica.formats import write
from lorica.formats.storage.files import save_text
from lorica.run_files import RUN
from lorica.training.config.record import RunRecord

ADAPTER, CARD = "pytorch_lora_weights.safetensors", "README.md"


def write_adapter(
    adapter: Adapter,
    folder: Path,
    record: RunRecord,
    *,
    family: Mapping[str, str],
    data: str,
    step: int,
    side: int,
    name: str = ADAPTER,
) -> Path:
    """Write the file of an adapter in diffusers' format, with metadata about the whole run.

    The same run writes the same bytes: no dates, no paths of this machine. ``family`` is metadata of the recipe,
    ``data`` the digest of the data set.

    Raises:
        FileError: if the folder cannot be written.
    """
    metadata = {
        "lorica.version": _version(),
        "lorica.base_model": record.base,
        "lorica.config": json.dumps(record.public, sort_keys=True),
        "lorica.step": str(step),
        "lorica.dataset_hash": data,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": "diffusers",
        "modelspec.title": record.title,
        "modelspec.resolution": f"{side}x{side}",
        "modelspec.hash_sha256": f"0x{digest_of_adapter(adapter)}",
        **family,
        **({"modelspec.trigger_phrase": record.trigger} if record.trigger else {}),
    }
    try:
        return write(adapter, folder / name, format="diffusers", metadata=metadata)
    except OSError as error:
        raise FileError(f"{error} The last checkpoint is intact.") from error


def digest_of_adapter(adapter: Adapter) -> str:
    """SHA-256 of every tensor with its name, in order of the names."""
    tensors: dict[str, Tensor] = {
        f"{component}/{path}/{field}": tensor
        for component, path, layer in adapter.layers()
        for field, tensor in layer.tensors.items()
    }
    digest = sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def write_card(
    folder: Path, record: RunRecord, facts: Mapping[str, object], samples: Sequence[tuple[Path, str]]
) -> Path:
    """Write the model card: use, samples, and facts about the training.

    Args:
        folder: the output folder.
        record: the configuration.
        facts: names and values for the table.
        samples: pictures in the folder, each with its prompt.
    """
    pictures = [(path.relative_to(folder).as_posix(), prompt) for path, prompt in samples]
    widgets = "".join(f"- text: {json.dumps(prompt)}\n  output:\n    url: {path}\n" for path, prompt in pictures)
    text = CARD_TEXT.format(
        name=record.title,
        base=record.base,
        base_json=json.dumps(record.base),
        trigger_line=f"instance_prompt: {json.dumps(record.trigger)}\n" if record.trigger else "",
        trigger=TRIGGER_TEXT.format(trigger=record.trigger) if record.trigger else "",
        prompt=json.dumps(pictures[0][1] if pictures else record.trigger or "..."),
        adapter_name=record.file,
        widget=f"widget:\n{widgets}" if widgets else "",
        gallery="\n".join(f"![{prompt}]({path})" for path, prompt in pictures) or "No sample was drawn.",
        table="\n".join(f"| {key} | {value} |" for key, value in facts.items()),
        run=RUN,
    )
    save_text(text, folder / CARD)
    return folder / CARD


def _version() -> str:
    try:
        return version("lorica")
    except PackageNotFoundError:  # run from a source tree that was not installed
        return "unknown"


TRIGGER_TEXT = """
## Trigger

Write `{trigger}` in the prompt to call up what was learnt.
"""
CARD_TEXT = """---
base_model: {base_json}
{trigger_line}library_name: diffusers
tags:
- lora
- text-to-image
- diffusers
- lorica
{widget}---

# {name}

A LoRA for `{base}`, trained with Lorica.

{gallery}
{trigger}
## Use

With Lorica:

```bash
lorica generate --base {base} --lora {adapter_name} --prompt {prompt}
```

With diffusers:

```python
pipe.load_lora_weights(".", weight_name="{adapter_name}")
picture = pipe({prompt}).images[0]
```

## Training

| | |
|---|---|
{table}

Every setting is in `{run}`, the loss of every step in `metrics.jsonl`.

![loss](loss.png)
"""
