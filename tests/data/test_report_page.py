"""The report page: everything is told, nothing is fetched, no caption becomes code, and it fits a phone."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from lorica.data.findings import PROBLEMS, Finding
from lorica.data.prepare import Limits, Survey, examine_folder
from lorica.data.report_page import MOST_SHOWN, POLICY, report_page, write_report
from lorica.errors import FileError

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip
HOSTILE = "</p><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\"> & 'é' \"猫\""
PHONE = 390  # pixels

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install -y chromium")


@pytest.fixture
def survey(tmp_path: Path) -> Survey:
    """A folder with a copy, a broken picture, a hostile caption and a name without spaces."""
    folder = tmp_path / "my <b>pictures"
    folder.mkdir()
    for number, name in enumerate(("a.png", "b <i>.png", "n" * 90 + ".png")):
        Image.linear_gradient("L").rotate(90 * number).resize((70 + number, 64)).save(folder / name)
        (folder / name).with_suffix(".txt").write_text(HOSTILE if number == 1 else "fine", encoding="utf-8")
    (folder / "copy.png").write_bytes((folder / "a.png").read_bytes())
    (folder / "broken.png").write_text("no picture")
    return examine_folder(folder, Limits(resolution=65))


class Elements(HTMLParser):
    """Every element that starts, with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_every_problem_has_its_section_in_order_and_a_link_to_it(survey: Survey) -> None:
    elements = Elements(report_page(survey)).found
    sections = [attributes["id"] for tag, attributes in elements if tag == "section"]
    expected = ["unreadable", "caption_missing", "exact_duplicate", "tiny"]
    assert sections == expected
    assert [attributes["href"] for tag, attributes in elements if tag == "a"] == [f"#{name}" for name in expected]


def test_names_and_captions_stay_text(survey: Survey) -> None:
    page = report_page(survey)
    tags = {tag for tag, _ in Elements(page).found}
    assert tags.isdisjoint({"script", "b <i>", "link", "iframe", "object"})
    assert page.count("&lt;script&gt;") == 1
    assert "my &lt;b&gt;pictures" in page
    assert all(not name.startswith("on") for _, attributes in Elements(page).found for name in attributes)


def test_nothing_is_fetched(survey: Survey) -> None:
    page = report_page(survey)
    images = [attributes["src"] or "" for tag, attributes in Elements(page).found if tag == "img"]
    assert len(images) == 7  # two of the group, one without a caption, four that are tiny
    assert all(source.startswith("data:image/jpeg;base64,") for source in images)
    assert POLICY in page
    assert not re.search(r"url\(|@import|https?://", page)


def test_pictures_without_problems_are_shown_last(tmp_path: Path) -> None:
    Image.linear_gradient("L").save(tmp_path / "a.png")
    page = report_page(examine_folder(tmp_path, Limits(resolution=9), caption="all"))
    assert "Nothing wrong <b>1</b>" in page
    assert "Ready to train. Nothing is wrong." in page
    assert ">all</p>" in page


def test_a_long_list_is_cut_with_its_names(survey: Survey) -> None:
    many = tuple(Finding("tiny", f"picture {number}", "small") for number in range(MOST_SHOWN + 2))
    page = report_page(Survey(**{**{name: getattr(survey, name) for name in Survey.__slots__}, "findings": many}))
    assert page.count("<p class='detail'>small</p>") == MOST_SHOWN
    assert f"and 2 more: picture {MOST_SHOWN}, picture {MOST_SHOWN + 1}<" in page


def test_a_picture_that_went_away_meanwhile_is_said(survey: Survey) -> None:
    (survey.folder / "copy.png").unlink()
    assert report_page(survey).count("gone since it was read") == 3


def test_the_verdict_says_whether_training_starts(survey: Survey, tmp_path: Path) -> None:
    assert "Not ready" in report_page(survey)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_text("")
    page = report_page(examine_folder(tmp_path / "bad", Limits(), caption="x"))
    assert "None of the pictures can be read" in page


def test_an_older_report_is_replaced_and_another_page_is_not(survey: Survey, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(survey, path)
    assert write_report(survey, path).read_text(encoding="utf-8") == report_page(survey)
    path.write_text("<p>my own page")
    with pytest.raises(FileError, match=r"report\.html already; .*--overwrite"):
        write_report(survey, path)
    assert path.read_text() == "<p>my own page"
    write_report(survey, path, overwrite=True)
    assert "lorica prepare" in path.read_text(encoding="utf-8")


def test_a_folder_that_is_not_there_is_told(survey: Survey, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot write"):
        write_report(survey, tmp_path / "no" / "page.html")
    assert not (tmp_path / "no").exists()


def in_browser(page: str, folder: Path, script: str) -> str:
    """Return what our own script finds, run beside the page in a frame as wide as a phone."""
    (folder / "page.html").write_text(page.replace(POLICY, ""), encoding="utf-8")  # so that a fault would show
    (folder / "frame.html").write_text(
        f"<title>-</title><iframe id=f src=page.html style='width:{PHONE}px;height:800px;border:0'></iframe>"
        f"<script>f.onload = () => {{ const d = f.contentDocument; document.title = {script}; }}</script>"
    )
    command = [
        str(CHROMIUM), *FLAGS, f"--user-data-dir={folder / 'profile'}", "--allow-file-access-from-files",
        "--virtual-time-budget=4000", "--dump-dom", (folder / "frame.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<title>(.*?)</title>", done.stdout)
    assert found, done.stdout[:300]
    return found[1]


@needs_chromium
@pytest.mark.slow
def test_it_fits_a_phone_shows_every_picture_and_runs_no_caption(survey: Survey, tmp_path: Path) -> None:
    script = (
        "[d.documentElement.scrollWidth, [...d.images].filter(i => i.naturalWidth > 0).length, d.images.length, "
        "d.title, [...d.querySelectorAll('figure')].every(e => e.getBoundingClientRect().right <= 390)].join(' | ')"
    )
    shown = in_browser(report_page(survey), tmp_path, script).split(" | ")
    assert shown == [str(PHONE), "7", "7", "my &lt;b&gt;pictures: 8 findings", "true"]


def test_every_problem_has_words() -> None:
    assert all(problem.title and problem.remedy.endswith(".") for problem in PROBLEMS.values())
