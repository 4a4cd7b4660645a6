"""``lorica inspect``: description of an adapter file, its use, and all its facts."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import click

from lorica.cli.output import FAILED, WRONG_INPUT, json_option, print_json
from lorica.cli.postponed import postpone
from lorica.tools.digests import Digests
from lorica.tools.facts import Facts

SUFFIX = ".safetensors"  # of the files that are hashed
ONE_THREAD = "OPENBLAS_NUM_THREADS", "1"  # numpy's products are thin here, and other cores hash at the same time


@click.command(
    context_settings={"max_content_width": 110},
    epilog="No model is loaded. The hashes and norms are the only parts that read the whole file.",
)
@click.argument("source", metavar="FILE")
@click.option(
    "--model", metavar="PATH|NAME", help="Also say how well it fits a base model: a folder, checkpoint or family."
)
@click.option("--norms/--no_norms", default=None, help="Measure how large the changes are.  [on for one file]")
@click.option("--hashes/--no_hashes", default=None, help="Compute and verify the hashes.  [on for one file]")
@click.option("--metadata", "with_metadata", is_flag=True, help="Also show every entry of the metadata as it is.")
@json_option
def command(
    source: str, model: str | None, norms: bool | None, hashes: bool | None, with_metadata: bool, as_json: bool
) -> int:
    r"""Say what an adapter file is, what it is for, and how to use it.

    FILE is a .safetensors, .pt or .bin file, a Hub id, or a folder: of a folder with several files, each gets a line.

    \b
    lorica inspect style.safetensors
    lorica inspect style.safetensors --model sdxl
    lorica inspect my-loras --json

    The exit code is 2 if the file, or one of the folder's, cannot be used as it is, and 1 if it does not fit --model.
    """
    os.environ.setdefault(*ONE_THREAD)
    with _hashing(Path(source), hashes) as digests:
        postpone("torch", names=("Tensor",), modules=("nn", "nn.functional"))  # most files can be told without it
        postpone("safetensors.torch", names=("save_file",))  # would import torch
        from lorica.cli.inspect_report import print_facts, print_folder
        from lorica.tools.inspect import adapter_files, inspect, inspect_folder

        files = adapter_files(Path(source))
        if len(files) > 1:
            folder = inspect_folder(Path(source), model=model, norms=bool(norms), hashes=bool(hashes))
            print_json(folder.as_dict()) if as_json else print_folder(folder)
            return WRONG_INPUT if folder.broken else max(map(_exit_code, folder.files))
        wanted = {"norms": norms is not False, "hashes": hashes is not False}
        facts = inspect(files[0] if files else source, model=model, digests=digests, **wanted)
        print_json(facts.as_dict()) if as_json else print_facts(facts, with_metadata=with_metadata)
        return _exit_code(facts)


def _exit_code(facts: Facts) -> int:
    if facts.problem:
        return WRONG_INPUT
    return FAILED if facts.fit and not facts.fit.whole else 0


def _hashing(path: Path, wanted: bool | None) -> AbstractContextManager[Digests | None]:
    """Digests of a file that is to be hashed, started before the slow imports."""
    plain = path.suffix.lower() == SUFFIX and path.is_file()
    return Digests(path) if plain and wanted is not False else nullcontext()
