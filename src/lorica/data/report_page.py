"""The report of ``lorica prepare``: one HTML page with every problem and its pictures, that loads nothing else."""

from __future__ import annotations

import os
from base64 import b64encode
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from lorica.data.decoding import load_picture
from lorica.data.findings import SEVERITIES, by_problem
from lorica.data.metadata import refuse_to_overwrite
from lorica.data.prepare import Picture, Survey
from lorica.errors import DataError, FileError
from lorica.formats.storage.files import save_text

TEMPLATE = "report_page.html.jinja"
MARK = '<meta name="generator" content="lorica prepare">'
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
MOST_SHOWN = 60  # findings of one problem; the names of the rest are listed
THUMBNAIL = 320  # pixels of the longer side, shown at half of it: sharp on a phone
QUALITY = 80


def write_report(survey: Survey, path: Path, *, overwrite: bool = False) -> Path:
    """Write the report, whole or not at all, over an older one if there is one.

    Raises:
        FileError: if it cannot be written, or another page lies there and ``overwrite`` is false.
    """
    refuse_foreign(path, overwrite)
    if not path.parent.is_dir():
        raise FileError(f"cannot write {path}: there is no folder {path.parent}.")
    save_text(report_page(survey), path)
    return path


def refuse_foreign(path: Path, overwrite: bool) -> None:
    """Raise if a file lies at ``path`` that is not an older report.

    Raises:
        FileError: if there is one and ``overwrite`` is false.
    """
    ours = os.path.isfile(path) and MARK.encode() in path.read_bytes()[:1000]  # noqa: PTH113
    refuse_to_overwrite(path, overwrite or ours)


def report_page(survey: Survey) -> str:
    """HTML of the report."""
    told = {name for finding in survey.findings for name in (finding.name, *finding.others)}
    environment = Environment(
        loader=PackageLoader("lorica.data", "."),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        survey=survey,
        title=survey.folder.absolute().name,
        problems=by_problem(survey.findings),
        severities=SEVERITIES,
        pictures={picture.name: picture for picture in survey.pictures},
        fine=[picture for picture in survey.pictures if picture.name not in told],
        sides=sorted(min(picture.size) for picture in survey.pictures),
        thumbnail=_thumbnail,
        most_shown=MOST_SHOWN,
        mark=Markup(MARK),  # noqa: S704  # our own constants, with their quotes
        policy=Markup(POLICY),  # noqa: S704
    )


def _thumbnail(picture: Picture) -> str | None:
    """Small JPEG in base64, or None if the file is gone."""
    try:
        small = load_picture(picture.path.read_bytes(), picture.path)
    except (DataError, OSError):
        return None
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    content = BytesIO()
    small.save(content, "JPEG", quality=QUALITY)
    return b64encode(content.getvalue()).decode()


def _printable(value: Any) -> Any:
    """Text without lone surrogates, which file names may hold and UTF-8 cannot."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return value.encode("utf-8", "replace").decode()
