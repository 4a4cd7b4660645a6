"""Base model on disk: its modules' paths and shapes from the headers, its weights when they are used.

No model is built. In a folder in diffusers' layout the names of the weights are those of the modules, so the headers of
its files say everything; a known family needs no files at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lorica.errors import FileError, FormatError, ModelError, UnknownNameError
from lorica.formats import FORMATS
from lorica.formats.reading import recognise
from lorica.formats.storage.files import PICKLED, peek
from lorica.formats.storage.sources import PREFERRED
from lorica.models import FAMILIES, Target
from lorica.models.bundled import FOLDER as BUNDLED_FOLDER
from lorica.models.bundled import NAME as BUNDLED
from lorica.models.clip import spellings
from lorica.models.detect import detect
from lorica.printing import expanded

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".safetensors", *PICKLED)
# Networks that no adapter changes.
SKIPPED = frozenset({"vae", "vae_decoder", "vqgan", "movq", "safety_checker", "image_encoder"})
# The component of a folder that holds one network alone, by a part of the name of its class.
CLASSES = {"UNet": "unet", "Prior": "prior", "Transformer": "transformer", "Text": "text_encoder", "T5": "text_encoder"}
CONFIG, INDEX = "config.json", "model_index.json"
WEIGHT = ".weight"
NETWORK = "model.diffusion_model."  # prefix of the denoiser's names in a whole checkpoint
KNOWN = 0.9  # share of its modules that must be a family's


@dataclass(frozen=True, slots=True)
class BaseModel:
    """One base model.

    Args:
        target: the modules that an adapter can change.
        weights: component to module path to its weight, not read yet; empty where only the shapes are known.
    """

    target: Target
    weights: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict[str, Mapping[str, "Tensor"]])

    def weight(self, component: str, path: str) -> Tensor:
        """Weight of a module, by either spelling of a text encoder's paths.

        Raises:
            ModelError: if the weights are not there, or have no such module.
        """
        part = self.weights.get(component, {})
        found = next((part[spelling] for spelling in spellings(path) if spelling in part), None)
        if found is not None:
            return getattr(found, "tensor", found)
        if not self.weights:
            raise ModelError(
                f"the weight of {component}.{path} is needed, and only the shapes of {self.target.name} are known "
                "here. Name a folder with the model's weights."
            )
        raise ModelError(f"{self.target.name} has no module {component}.{path}.")


def open_base(model: str | Path) -> BaseModel:
    """Base model by the name of its family, from a folder in diffusers' layout, or detected from a single file.

    Raises:
        FileError: if there is no such folder, or its files cannot be read.
        ModelError: if the folder holds no model.
        UnknownNameError: if it is neither a folder nor the name of a family.
    """
    path = expanded(model)
    if path.is_dir():
        return _from_folder(path)
    if str(model) == BUNDLED and BUNDLED_FOLDER.is_dir():
        found = _from_folder(BUNDLED_FOLDER)
        return replace(found, target=replace(found.target, name=FAMILIES[BUNDLED].title))
    if str(model) in FAMILIES:
        return BaseModel(FAMILIES[str(model)].target)
    if path.exists():
        return _from_checkpoint(path)
    if path.parent != Path() or path.suffix:
        raise FileError(f"there is no folder {path}. Known families: {', '.join(FAMILIES)}.")
    raise UnknownNameError.choose("base model", str(model), FAMILIES)


def refuse_adapter(model: str | Path) -> None:
    """Refuse an adapter where a base model is wanted.

    Raises:
        ModelError: if it is the file or folder of an adapter.
    """
    path = expanded(model)
    if adapter_at(path) is not None:
        raise ModelError(
            f"{path} is an adapter, not a base model: it holds changes to one. Name it with --lora {path}, and with "
            "--base the model that it was trained for; `lorica inspect` says which."
        )


def adapter_at(path: Path) -> Path | None:
    """The adapter's file where a file or folder is that of an adapter and not of a base model; None otherwise."""
    file = next((path / name for name in PREFERRED if (path / name).is_file()), None) if path.is_dir() else path
    if file is None or (path / INDEX).is_file() or file.suffix.lower() not in SUFFIXES or not file.is_file():
        return None
    try:
        recognise(peek(file), FORMATS)
    except (FileError, FormatError):
        return None  # whatever it is, it is no adapter
    return file


def _from_folder(folder: Path) -> BaseModel:
    weights = dict(_networks(folder))
    if not weights:
        raise ModelError(
            f"{folder} holds no model: neither weights with a {CONFIG} beside them, nor folders (unet, text_encoder, "
            "...) with such."
        )
    shapes = {name: {path: tuple(weight.shape) for path, weight in part.items()} for name, part in weights.items()}
    return BaseModel(Target(folder.resolve().name, shapes), weights)


def _from_checkpoint(path: Path) -> BaseModel:
    """The known family whose network a single file holds, by its header. Its weights are not used."""
    candidates = detect({"model": dict(_matrices_in(path))}) if path.suffix == ".safetensors" else []
    best = candidates[0] if candidates else None
    if best is None or best.fitting < KNOWN * best.modules:
        raise ModelError(
            f"{path} is a single file, and no checkpoint (.safetensors) of a base model that is known here by its "
            "original names. A base model is named by its folder in diffusers' layout, or by its family."
        )
    return BaseModel(FAMILIES[best.family].target)


def _matrices_in(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Modules of the denoiser, with the shapes of their weights."""
    tensors = peek(path).tensors
    start = NETWORK if any(key.startswith(NETWORK) for key in tensors) else ""
    for key, tensor in tensors.items():
        if key.startswith(start) and key.endswith(WEIGHT) and len(tensor.shape) > 1:
            yield key.removeprefix(start).removesuffix(WEIGHT), tuple(tensor.shape)


def _networks(folder: Path) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Networks in a folder: the folder itself if it is one, or else its subfolders."""
    if (folder / CONFIG).is_file():
        yield _component_of(folder), _weights_in(folder)
        return
    for child in sorted(folder.iterdir()):
        if child.is_dir() and child.name not in SKIPPED and (weights := _weights_in(child)):
            yield child.name, weights


def _component_of(folder: Path) -> str:
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        name = str(config.get("_class_name") or config["architectures"][0])
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise FileError(f"{folder / CONFIG} does not say what network it configures ({error!r:.100}).") from error
    found = next((component for mark, component in CLASSES.items() if mark in name), None)
    if found is None:
        raise ModelError(f"{folder} holds a {name}, which is no network that adapters change.")
    return found


def _weights_in(folder: Path) -> dict[str, Tensor]:
    """Weights of the modules in a folder's files; a plain file takes precedence over a variant such as ``.fp16``."""
    for suffix in SUFFIXES:
        files = sorted(folder.glob(f"*{suffix}"), key=lambda file: (-len(file.suffixes), file.name))
        weights = {
            key.removesuffix(WEIGHT): tensor
            for file in files
            for key, tensor in peek(file).tensors.items()
            if key.endswith(WEIGHT)
        }
        if weights:
            return weights
    return {}
