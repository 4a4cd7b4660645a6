"""Problems that a folder of pictures can have, and a finding: one problem in one place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["stops", "harms", "note"]

SEVERITIES: dict[Severity, str] = {
    "stops": "stops training",
    "harms": "harms training",
    "note": "note",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A kind of problem: its name for programs, its severity, and its title and remedy for people."""

    name: str
    severity: Severity
    title: str
    remedy: str


PROBLEMS: dict[str, Problem] = {
    problem.name: problem
    for problem in (
        Problem("unreadable", "stops", "Pictures that cannot be read", "Remove them or save them anew."),
        Problem("metadata_line", "stops", "Lines of metadata.jsonl that cannot be used", "Correct or remove the line."),
        Problem(
            "metadata_without_file",
            "stops",
            "Entries of metadata.jsonl without a picture",
            "Remove the line, or put the picture where it says.",
        ),
        Problem("caption_unreadable", "stops", "Caption files that cannot be read", "Save them as text in UTF-8."),
        Problem(
            "caption_missing",
            "stops",
            "Pictures without a caption",
            "Write one into a .txt file beside the picture or a line of metadata.jsonl, "
            "or train with one caption for all: --instance_prompt.",
        ),
        Problem("exact_duplicate", "harms", "The same file more than once", "Keep one of each; copies count double."),
        Problem(
            "near_duplicate",
            "harms",
            "Pictures that look alike",
            "Keep the best of each group; the others make the model repeat it.",
        ),
        Problem("caption_empty", "harms", "Empty captions", "Say what is to be seen, or remove the picture."),
        Problem(
            "caption_too_long",
            "harms",
            "Captions longer than the model reads",
            "Shorten them; their end is cut off.",
        ),
        Problem(
            "repeats_trigger",
            "harms",
            "Captions that do the trigger word's work",
            "Leave out of the captions what every picture shows: it is learnt under those words, not the trigger word.",
        ),
        Problem(
            "tiny",
            "harms",
            "Pictures smaller than the resolution",
            "Find larger ones, or train at less; enlarged pictures teach blur.",
        ),
        Problem(
            "extreme_aspect",
            "harms",
            "Very long or very high pictures",
            "Cut out what matters; most of them is cut off in training.",
        ),
        Problem("caption_without_picture", "note", "Text files without a picture", "They are not read."),
    )
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem in one place.

    Args:
        problem: a name of ``PROBLEMS``.
        name: the file, relative to the folder.
        detail: what was found there, in a few words.
        others: the other files of a group of duplicates.
    """

    problem: str
    name: str
    detail: str
    others: tuple[str, ...] = ()

    @property
    def severity(self) -> Severity:
        """Severity of the problem."""
        return PROBLEMS[self.problem].severity

    def as_dict(self) -> dict[str, object]:
        """The finding as a plain dictionary, for JSON."""
        severity, others = self.severity, list(self.others)
        return {
            "problem": self.problem,
            "severity": severity,
            "file": self.name,
            "detail": self.detail,
            "others": others,
        }


def by_problem(findings: Iterable[Finding]) -> dict[Problem, list[Finding]]:
    """Findings by problem, the worst problems first; problems without a finding are left out."""
    found: dict[str, list[Finding]] = {name: [] for name in PROBLEMS}
    for finding in findings:
        found[finding.problem].append(finding)
    return {PROBLEMS[name]: group for name, group in found.items() if group}
