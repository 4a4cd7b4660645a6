"""Upload of the result of a run to the Hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError

from lorica.errors import ConfigError, FileError
from lorica.run_files import CHECKPOINT

KEPT_HERE = (f"{CHECKPOINT}*/**", ".*", ".*/**", "logs/**", "losses.csv")  # names of your files are yours


def check_login() -> None:
    """Refuse a run that is to be uploaded without a login, before it trains.

    Raises:
        ConfigError: if nobody is logged in.
    """
    if get_token() is None:
        raise ConfigError("push_to_hub needs a login: run `hf auth login`, or set HF_TOKEN.")


def push_folder(folder: Path, model_id: str | None) -> str:
    """Upload the adapter, the card, the samples and the curve, without checkpoints; return the address.

    Args:
        folder: the output folder of a finished run.
        model_id: ``user/name``, or a name alone; the folder's name if None.

    Raises:
        FileError: if the upload fails, with the command that repeats it.
    """
    api = HfApi()
    try:
        repository = api.create_repo(model_id or folder.resolve().name, exist_ok=True)
        api.upload_folder(
            repo_id=repository.repo_id,
            folder_path=folder,
            ignore_patterns=list(KEPT_HERE),
            commit_message="Upload a LoRA trained with Lorica",
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        name = model_id or f"USER/{folder.resolve().name}"
        raise FileError(
            f"the run is complete in {folder}, but its upload failed: {error} To repeat it: hf upload {name} {folder}"
        ) from error
    return str(repository)
