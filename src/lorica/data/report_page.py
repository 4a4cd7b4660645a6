"""The report of ``lorica prepare`` as one HTML page: every problem with the pictures it is about, and nothing to fetch.

The page has no script and loads nothing: pictures are inside it, names and captions are escaped, and its own policy
forbids everything else, so that a strange caption stays text.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from io import BytesIO
from pathlib import Path

from PIL import Image

from lorica.data.findings import SEVERITIES, Finding, Problem, by_problem
from lorica.data.images import load_picture
from lorica.data.metadata_file import refuse_to_overwrite, write_whole
from lorica.data.prepare import Picture, Survey
from lorica.errors import DataError

MARK = '<meta name="generator" content="lorica prepare">'
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = "report_page.css"
MOST_SHOWN = 60  # findings of one problem; the names of the rest are listed
THUMBNAIL = 320  # pixels of the longer side, shown at half of it: sharp on a phone
QUALITY = 80


def write_report(survey: Survey, path: Path, *, overwrite: bool = False) -> Path:
    """Write the report, whole or not at all, over an older one if there is one.

    Raises:
        FileError: if it cannot be written, or another page lies there and ``overwrite`` is false.
    """
    refuse_foreign(path, overwrite)
    return write_whole(path, report_page(survey))


def refuse_foreign(path: Path, overwrite: bool) -> None:
    """Raise if a file lies at ``path`` that is not an older report.

    Raises:
        FileError: if there is one and ``overwrite`` is false.
    """
    ours = path.is_file() and MARK.encode() in path.read_bytes()[:1000]
    refuse_to_overwrite(path, overwrite or ours)


def report_page(survey: Survey) -> str:
    """Return the page."""
    problems = by_problem(survey.findings)
    by_name = {picture.name: picture for picture in survey.pictures}
    style = files("lorica.data").joinpath(STYLE).read_text(encoding="utf-8")
    title = f"{survey.folder.absolute().name}: {len(survey.findings)} findings"
    body = [
        *_head(survey, problems),
        *(_section(problem, findings, by_name) for problem, findings in problems.items()),
        _rest(survey),
    ]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            MARK,
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_text(title)}</title><style>\n{style}</style></head><body><main>",
            *body,
            "</main></body></html>\n",
        ]
    )


def _head(survey: Survey, problems: Mapping[Problem, list[Finding]]) -> Iterator[str]:
    """Yield the title, the verdict, the numbers and a link to each problem."""
    yield f"<h1>{_text(survey.folder.absolute().name)}</h1>"
    yield _verdict(survey)
    yield "<dl class='facts'>" + "".join(
        f"<div><dd>{value}</dd><dt>{name}</dt></div>" for name, value in _facts(survey)
    )
    yield "</dl>"
    links = (
        f"<a class='{problem.severity}' href='#{problem.name}'>{_text(problem.title)}<b>{len(findings)}</b></a>"
        for problem, findings in problems.items()
    )
    yield f"<nav>{''.join(links)}</nav>"


def _verdict(survey: Survey) -> str:
    if not survey.usable:
        return "<p class='verdict stops'>None of the pictures can be read: there is nothing to train on.</p>"
    if not survey.ready:
        return "<p class='verdict stops'>Not ready: training stops at what is marked red.</p>"
    if survey.findings:
        return "<p class='verdict harms'>Ready to train. Look at what is below first.</p>"
    return "<p class='verdict fine'>Ready to train. Nothing is wrong.</p>"


def _facts(survey: Survey) -> Iterator[tuple[str, str]]:
    yield "pictures", str(survey.found)
    yield "can be read", str(len(survey.pictures))
    yield "with a caption", str(len(survey.captions))
    if sides := sorted(min(picture.size) for picture in survey.pictures):
        yield "pixels, shorter side", f"{sides[0]}" if sides[0] == sides[-1] else f"{sides[0]}&ndash;{sides[-1]}"
    yield "captions from", _text(survey.captions_from)


def _section(problem: Problem, findings: Sequence[Finding], by_name: Mapping[str, Picture]) -> str:
    shown = "".join(_finding(finding, by_name) for finding in findings[:MOST_SHOWN])
    others = ", ".join(_text(finding.name) for finding in findings[MOST_SHOWN:])
    more = f"<p class='more'>and {len(findings) - MOST_SHOWN} more: {others}</p>" if others else ""
    return (
        f"<section id='{problem.name}' class='{problem.severity}'>"
        f"<h2>{_text(problem.title)} <b>{len(findings)}</b></h2>"
        f"<p class='remedy'><em>{SEVERITIES[problem.severity].capitalize()}</em> {_text(problem.remedy)}</p>"
        f"<div class='cards'>{shown}</div>{more}</section>"
    )


def _finding(finding: Finding, by_name: Mapping[str, Picture]) -> str:
    if not finding.others:
        return _card(finding.name, by_name.get(finding.name), finding.detail)
    cards = "".join(_card(name, by_name.get(name)) for name in (finding.name, *finding.others[: MOST_SHOWN - 1]))
    return f"<div class='group'><p class='detail'>{_text(finding.detail)}</p><div class='cards'>{cards}</div></div>"


def _rest(survey: Survey) -> str:
    """Show pictures that nothing is said about."""
    told = {name for finding in survey.findings for name in (finding.name, *finding.others)}
    fine = [picture for picture in survey.pictures if picture.name not in told]
    if not fine:
        return ""
    cards = "".join(_card(picture.name, picture) for picture in fine[:MOST_SHOWN])
    more = f"<p class='more'>and {len(fine) - MOST_SHOWN} more</p>" if len(fine) > MOST_SHOWN else ""
    return (
        f"<section id='fine' class='fine'><h2>Nothing wrong <b>{len(fine)}</b></h2>"
        f"<div class='cards'>{cards}</div>{more}</section>"
    )


def _card(name: str, picture: Picture | None, detail: str = "") -> str:
    size = f"<span>{picture.size[0]} &times; {picture.size[1]}</span>" if picture else ""
    captions = picture.captions if picture else ()
    said = f"<p class='detail'>{_text(detail)}</p>" if detail else ""
    quoted = "".join(f"<p class='caption'>{_text(caption) or '<i>empty</i>'}</p>" for caption in captions)
    return (
        f"<figure>{_thumbnail(picture)}<figcaption><p class='name'>{_text(name)} {size}</p>"
        f"{said}{quoted}</figcaption></figure>"
    )


def _thumbnail(picture: Picture | None) -> str:
    if picture is None:
        return ""
    try:
        small = load_picture(picture.path.read_bytes(), picture.path)
    except (DataError, OSError):
        return "<div class='none'>gone since it was read</div>"
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    content = BytesIO()
    small.save(content, "JPEG", quality=QUALITY)
    data = b64encode(content.getvalue()).decode()
    return f"<div class='thumb'><img alt='{_text(picture.name)}' src='data:image/jpeg;base64,{data}'></div>"


def _text(text: str) -> str:
    """Return text that is only text in HTML, in attributes too; what is no character is shown as such."""
    return escape(text.encode("utf-8", "replace").decode(), quote=True)
