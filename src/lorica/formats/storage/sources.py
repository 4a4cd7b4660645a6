"""From what a user names (a file, a folder, a Hub id, a state dict) to the tensors it stands for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from os import PathLike
from pathlib import Path

from torch import Tensor

from lorica.errors import FileError, FormatError
from lorica.formats.peft_config import CONFIG_FILE, differing
from lorica.formats.storage.files import PICKLED, FileContents, load, tensors_of
from lorica.run_files import CHECKPOINT, MANIFEST, is_run_state

Source = str | Path | Mapping[str, Tensor]

FILE_NAME = "pytorch_lora_weights.safetensors"  # what diffusers looks for in a folder
PEFT_FILE = "adapter_model.safetensors"
PEFT_STEM = "adapter_model"  # what PEFT calls its file, beside ``adapter_config.json``
PREFERRED = (FILE_NAME, PEFT_FILE, "pytorch_lora_weights.bin", "adapter_model.bin")
SUFFIXES = (".safetensors", *PICKLED)
_PART = re.compile(r"-\d{5}-of-(?P<parts>\d{5})\.\w+$")  # how the Hub's libraries name the parts of one state dict
_JOIN = "An adapter is read from one file: put the tensors of all parts into one, or pass them as a state dict."
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(/[^\\]+)?")
_URL = re.compile(r"\w+:/")  # also one of whose slashes a Path has made one
_ON_THE_HUB = re.compile(
    r"https?:/+(www\.)?(huggingface\.co|hf\.co)/(?P<repo>[^/]+/[^/]+)/(blob|resolve)/[^/]+(?P<file>/[^?]+)"
)


def open_source(source: Source) -> FileContents:
    """Return the tensors that a source stands for.

    Args:
        source: a file, a folder with one adapter, ``user/repo`` or ``user/repo/file`` on the Hub, or a state dict.

    Raises:
        FileError: if there is no such file, or it cannot be read.
        FormatError: if it is not a file of tensors.
    """
    if isinstance(source, Mapping):
        return FileContents("the state dict", tensors_of(source, "the state dict"))
    return with_config(load(locate(source)))


def with_config(contents: FileContents) -> FileContents:
    """Return a file of PEFT's with the configuration that lies beside it, as a part of its metadata.

    Raises:
        FileError: if the configuration cannot be read.
        FormatError: if the file's own configuration means something else.
    """
    path = Path(contents.source)
    beside = path.with_name(CONFIG_FILE)
    if path.stem != PEFT_STEM or not beside.is_file():
        return contents
    try:
        text = beside.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"cannot read {beside}, which lies beside {path.name}: {error}.") from error
    if CONFIG_FILE in contents.metadata:
        _check_same(contents.metadata[CONFIG_FILE], text, path)
        return contents
    return replace(contents, metadata={**contents.metadata, CONFIG_FILE: text})


def _check_same(own: str, beside: str, path: Path) -> None:
    names = differing(own, beside, str(path))
    if names:
        raise FormatError(
            f"{path} has a configuration in its own metadata, and {CONFIG_FILE} beside it says otherwise of "
            f"{', '.join(names)}: it is not clear which is meant. Remove the one that is not, or move the file."
        )


def locate(source: str | Path) -> Path:
    """Return the local file that a path, a folder or a Hub id stands for.

    Raises:
        FileError: if there is none.
        FormatError: if it is no such thing at all.
    """
    if not isinstance(source, str | PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may not check
        got = type(source).__name__
        raise FormatError(f"an adapter is read from a path, a Hub id or a state dict, not from a {got}.")
    if _URL.match(str(source)):
        raise FileError(_not_downloaded(str(source)))
    path = local_path(source)
    if path.is_dir():
        return path / _only_adapter(path)
    if path.exists():
        if is_run_state(path):
            beside = ", ".join(_names_in(path.parent)) or "no adapter"
            raise FileError(f"{path} is the state of a training run and no adapter; beside it is {beside}.")
        part = _PART.search(path.name)
        if part and int(part["parts"]) > 1:
            raise FileError(f"{path} is one of {int(part['parts'])} parts. {_JOIN}")
        return path
    if path.is_symlink():
        raise FileError(
            f"{path} is a link to {path.readlink()}, which leads to no file. Link it again, or name the file."
        )
    hub_id = isinstance(source, str) and _HUB_ID.fullmatch(source) and ".." not in path.parts
    if hub_id and not Path(path.parts[0]).exists():
        return _download(str(source))
    raise FileError(_missing(path))


def local_path(source: str | Path) -> Path:
    """A path as a user writes it, with the home folder for ``~``.

    Raises:
        FileError: if no file can have such a name.
    """
    path = Path(source)
    try:
        path = path.expanduser()
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, an unknown user's home, NUL in it
        reason = error.strerror if isinstance(error, OSError) else error
        raise FileError(f"{str(source)!r} is no path that can be used: {reason}.") from error
    return path


def _not_downloaded(url: str) -> str:
    found = _ON_THE_HUB.match(url)
    advice = f"Name it as on the Hub: {found['repo']}{found['file'] or ''}" if found else "Download the file first"
    return f"{url} is a link to a web page, and adapters are read from files. {advice}."


def _only_adapter(folder: Path) -> str:
    """The name of the adapter's file in a folder."""
    names = _names_in(folder)
    if not any(name.lower().endswith(SUFFIXES) for name in names):
        steps = sorted(folder.glob(f"{CHECKPOINT}*"), key=lambda step: (len(step.name), step.name))
        if steps:
            raise FileError(
                f"the folder {folder} holds {len(steps)} checkpoints, and no adapter. Name one: {steps[-1]}."
            )
    if "model_index.json" in names:
        raise FileError(f"the folder {folder} holds a whole model (model_index.json), and no adapter.")
    return choose_file(names, f"the folder {folder}")


def choose_file(names: Sequence[str], where: str) -> str:
    """Return the adapter among the files of a folder or repository.

    Raises:
        FileError: if there is none, or several and none has a usual name.
    """
    usual = [name for name in PREFERRED if name in names]
    if usual:
        return usual[0]
    for suffix in SUFFIXES:
        found = sorted(name for name in names if name.lower().endswith(suffix))
        if len(found) == 1:
            return found[0]
        if found and all(map(_PART.search, found)):
            raise FileError(f"{where} holds an adapter in {len(found)} parts: {_some(found)}. {_JOIN}")
        if found:
            raise FileError(f"{where} holds {len(found)} files that may be the adapter: {_some(found)}. Name one.")
    raise FileError(f"{where} holds no adapter: no {FILE_NAME} and no other file of {', '.join(SUFFIXES)}.")


def _names_in(folder: Path) -> list[str]:
    found = (child for child in folder.iterdir() if child.is_file() and not child.name.startswith("."))
    return [child.name for child in found if child.name != MANIFEST and not is_run_state(child)]


def _missing(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no file {path}, nor a folder {path.parent}."
    near = get_close_matches(path.name, _names_in(path.parent), n=3, cutoff=0.5)
    return f"there is no file {path}.{f' In that folder: {_some(near)}.' if near else ''}"


def _download(hub_id: str) -> Path:
    """Return the file of ``user/repo`` or ``user/repo/file``, from the Hub or its local cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    user, name, *rest = hub_id.split("/")
    repo = f"{user}/{name}"
    try:
        if rest:
            return Path(hf_hub_download(repo, "/".join(rest)))
        return _download_only_adapter(repo)
    except LocalEntryNotFoundError as error:
        raise FileError(f"there is no file {hub_id}, and the Hub cannot be reached to look there.") from error
    except EntryNotFoundError as error:
        raise FileError(f"the Hub repository {repo} has no file {'/'.join(rest)!r}.") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileError(f"there is no file {hub_id}, and no Hub repository {repo} could be read ({reason}).") from error


def _download_only_adapter(repo: str) -> Path:
    from huggingface_hub import hf_hub_download, list_repo_files
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, FILE_NAME))
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError:
        names = list_repo_files(repo)
        chosen = choose_file(names, f"the Hub repository {repo}")
        if Path(chosen).stem == PEFT_STEM and CONFIG_FILE in names:
            hf_hub_download(repo, CONFIG_FILE)
        return Path(hf_hub_download(repo, chosen))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
