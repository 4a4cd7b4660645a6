"""What a run leaves: the adapter file with complete metadata, and a model card."""

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
from lorica.training.config.config import RunConfig

ADAPTER, CARD, RUN = "pytorch_lora_weights.safetensors", "README.md", "run.toml"
# Where a run was, how it was interrupted and where it went say nothing about its result.
PLACES = frozenset(
    {
        "output_dir",
        "overwrite_output_dir",
        "logging_dir",
        "cache_dir",
        "resume_from_checkpoint",
        "push_to_hub",
        "hub_model_id",
        "local_rank",
    }
)
FOLDERS = ("train_data_dir", "class_data_dir", "validation_data_dir")


def write_adapter(
    adapter: Adapter, folder: Path, config: RunConfig, *, family: Mapping[str, str], data: str, step: int, side: int
) -> Path:
    """Write ``pytorch_lora_weights.safetensors`` in diffusers' format, with all that is known about the run.

    The same run writes the same bytes: no dates, no paths of this machine.

    Raises:
        FileError: if the folder cannot be written.
    """
    trigger = config.trigger_word or config.instance_prompt
    metadata = {
        "lorica.version": _version(),
        "lorica.base_model": base_name(config),
        "lorica.config": json.dumps(public_config(config), sort_keys=True),
        "lorica.step": str(step),
        "lorica.dataset_hash": data,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": "diffusers",
        "modelspec.title": config.output_dir.resolve().name,
        "modelspec.resolution": f"{side}x{side}",
        "modelspec.hash_sha256": f"0x{digest_of_adapter(adapter)}",
        **family,
        **({"modelspec.trigger_phrase": trigger} if trigger else {}),
    }
    try:
        return write(adapter, folder / ADAPTER, format="diffusers", metadata=metadata)
    except OSError as error:
        raise FileError(f"cannot write {folder / ADAPTER}: {error}. The last checkpoint is intact.") from error


def public_config(config: RunConfig) -> dict[str, object]:
    """Return the settings of a run without what is private to a machine: paths are reduced to names."""
    values = config.model_dump(mode="json", exclude=set(PLACES))
    sets = [{**values, **_named_only(values)} for values in values.pop("datasets")]
    return {**values, **_named_only(values), "datasets": sets, "pretrained_model_name_or_path": base_name(config)}


def base_name(config: RunConfig) -> str:
    """Return the name of the base model: a Hub id as it is, a path without its folders."""
    name = config.pretrained_model_name_or_path
    return _name(name) if Path(name).exists() else name


def digest_of_adapter(adapter: Adapter) -> str:
    """Return the SHA-256 of every tensor with its name, in order of the names."""
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
    folder: Path, config: RunConfig, facts: Mapping[str, object], samples: Sequence[tuple[Path, str]]
) -> Path:
    """Write the model card: what it is, how to use it, samples, and every setting.

    Args:
        folder: the output folder.
        config: the settings.
        facts: names and values for the table.
        samples: pictures in the folder, each with its prompt.
    """
    name, base = config.output_dir.resolve().name, base_name(config)
    pictures = [(path.relative_to(folder).as_posix(), prompt) for path, prompt in samples]
    widgets = "".join(f"- text: {json.dumps(prompt)}\n  output:\n    url: {path}\n" for path, prompt in pictures)
    text = CARD_TEXT.format(
        name=name,
        base=base,
        base_json=json.dumps(base),
        widget=f"widget:\n{widgets}" if widgets else "",
        gallery="\n".join(f"![{prompt}]({path})" for path, prompt in pictures) or "No sample was drawn.",
        table="\n".join(f"| {key} | {value} |" for key, value in facts.items()),
        adapter=ADAPTER,
        run=RUN,
    )
    (folder / CARD).write_text(text, encoding="utf-8")
    return folder / CARD


def _named_only(values: Mapping[str, object]) -> dict[str, object]:
    """Return the names of the folders of pictures, without where they lie."""
    folders: dict[str, object] = {key: _name(values[key]) for key in FOLDERS if key in values}
    source = values.get("dataset_name")
    return {**folders, "dataset_name": _name(source)} if source and Path(str(source)).exists() else folders


def _name(path: object) -> str:
    return Path(str(path)).resolve().name if path is not None else ""


def _version() -> str:
    try:
        return version("lorica")
    except PackageNotFoundError:  # run from a source tree that was not installed
        return "unknown"


CARD_TEXT = """---
base_model: {base_json}
library_name: diffusers
tags:
- lora
- text-to-image
- diffusers
- lorica
{widget}---

# {name}

A LoRA for `{base}`, trained with Lorica.

{gallery}

## Use

With Lorica:

```bash
lorica generate --base {base} --lora {adapter} --prompt "..."
```

With diffusers:

```python
pipe.load_lora_weights(".", weight_name="{adapter}")
```

## Training

| | |
|---|---|
{table}

Every setting is in `{run}`, the loss of every step in `metrics.jsonl`.

![loss](loss.png)
"""
