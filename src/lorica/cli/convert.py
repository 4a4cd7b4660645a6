"""``lorica convert``: an adapter file in one format to one in another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lorica.cli.output import json_option, print_json, show
from lorica.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lorica.tools.convert import Conversion, LayerChange


@click.command(
    context_settings={"max_content_width": 110},
    epilog="Layers that the format cannot hold become plain LoRAs where that is exact; what cannot be held at all is "
    "listed and nothing is written. The new file is read back and compared bit for bit before it takes its place.",
)
@click.argument("source", metavar="IN")
@click.argument("destination", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--to", required=True, metavar="FORMAT", help="The format to write, such as kohya or diffusers.")
@click.option("--approximate", metavar="rank=N", help="Approximate what the format cannot hold, with this rank.")
@click.option("--dtype", metavar="NAME", help="float32, float16 or bfloat16; each tensor keeps its own if left out.")
@click.option("--model", metavar="PATH|NAME", help="The base model: a folder, or a family if only names are needed.")
@click.option("--strict/--no_strict", default=True, help="Refuse keys that have no use; or leave them out.  [on]")
@json_option
def command(
    source: str,
    destination: Path,
    to: str,
    approximate: str | None,
    dtype: str | None,
    model: str | None,
    strict: bool,
    as_json: bool,
) -> None:
    r"""Write an adapter file in another format.

    IN is a .safetensors, .pt or .bin file, a folder with one adapter, or a Hub id. OUT is a .safetensors file.

    \b
    lorica convert style_kohya.safetensors style.safetensors --to diffusers
    lorica convert style_loha.safetensors style_lora.safetensors --to diffusers --approximate rank=32
    """
    rank = parse_rank(approximate) if approximate is not None else None
    from lorica.tools.convert import convert  # brings torch along

    done = convert(source, destination, to=to, approximate=rank, dtype=dtype, model=model, strict=strict)
    if as_json:
        print_json(done.as_dict())
    else:
        show("\n".join(closing(done)))


def parse_rank(text: str) -> int:
    """Rank in ``rank=N``, or ``N`` alone.

    Raises:
        ConfigError: if the text is anything else.
    """
    number = text.removeprefix("rank=")
    if not number.isdecimal() or not int(number):
        raise ConfigError(f"--approximate takes rank=N with N at least 1, such as rank=32, got {text!r}.")
    return int(number)


def closing(done: Conversion) -> Iterator[str]:
    """Report of a conversion, line by line, with the error of each layer that was approximated."""
    exact = [change for change in done.changed if change.exact]
    near = [change for change in done.changed if not change.exact]
    if exact:
        worst = max(change.error for change in exact)
        yield f"{_layers(exact)} became plain LoRA by exact factors; rounding changes them by at most {worst:.1e}."
    if near:
        yield f"{_layers(near)} became plain LoRA by approximation. Relative error of each:"
        yield from (f"  {change.error:8.2e}  rank {change.rank:<4} {change.module}" for change in near)
    if done.left_out:
        yield f"{len(done.left_out)} keys are left out:"
        yield from (f"  {key}: {reason}" for key, reason in done.left_out.items())
    same = "" if done.changed or done.dtype else ", and it holds the same tensors bit for bit"
    yield f"Wrote {done.path} in {done.to} format: {done.modules} modules from {done.format} format{same}."


def _layers(changes: list[LayerChange]) -> str:
    kinds = ", ".join(sorted({change.kind for change in changes}))
    return f"{len(changes)} {kinds} {'layer' if len(changes) == 1 else 'layers'}"
