"""``lorica cache``: what the encoded pictures and captions of all runs take on the disk, and a bound for it."""

from __future__ import annotations

import re
import time

import click

from lorica.cli.output import json_option, print_json, show
from lorica.errors import ConfigError
from lorica.printing import printable, readable_bytes

FACTORS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
DAY = 24 * 3600


@click.command(context_settings={"max_content_width": 110})
@click.option("--limit", metavar="SIZE", help="Delete what was used the longest ago, until SIZE is left: 20GB, 500M.")
@click.option("--clear", is_flag=True, help="Delete everything in it.")
@json_option
def command(limit: str | None, *, clear: bool, as_json: bool) -> None:
    r"""Show the cache of encoded pictures and captions, and bound it.

    Every run keeps what it encodes there, so that the next one need not encode it again. It may be deleted at any
    time, only not while a run needs it. Its folder is $LORICA_CACHE, or one in your cache folder.

    \b
    lorica cache
    lorica cache --limit 20GB
    """
    if clear and limit is not None:
        raise ConfigError("--clear and --limit contradict each other: leave one out.")
    most = 0 if clear else None if limit is None else bytes_in(limit)
    from lorica.data.cache import Cache, cache_folder  # brings torch along

    cache = Cache(cache_folder())
    gone = None if most is None else cache.shrink(most)
    left = cache.contents()
    if as_json:
        print_json(
            {
                "folder": cache.folder,
                "files": len(left.files),
                "bytes": left.size,
                "deleted_bytes": gone.size if gone else 0,
            }
        )
        return
    if gone is not None:
        show(f"Deleted {len(gone.files)} files of {readable_bytes(gone.size)}.")
    show(f"{printable(cache.folder)}: {len(left.files)} files, {readable_bytes(left.size)}.")
    if left.files:
        oldest = (time.time() - min(file.used for file in left.files)) / DAY
        show(f"The oldest was last used {oldest:.0f} days ago.")


def bytes_in(text: str) -> int:
    """Number of bytes that a size such as ``20GB``, ``1.5g`` or ``500`` says.

    Raises:
        ConfigError: if it says none.
    """
    found = re.fullmatch(r"(\d{1,15}(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?", text.strip().upper())
    if found is None:
        raise ConfigError(f"{printable(text)!r} is no size; write it as in 20GB or 500MB.")
    return round(float(found[1]) * FACTORS[found[2]])
