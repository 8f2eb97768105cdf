"""The findings of a diagnosis: as text, as a dictionary, as HTML."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from textwrap import wrap
from typing import Any

from sklearn_hscl.plotting.axes import GREEN, GREY, ORANGE, VERMILION
from sklearn_hscl.reports.finding import SEVERITIES, Finding

_WIDTH = 88
_MARKS = {"not applicable": "-", "ok": " ", "warning": "?", "problem": "!"}


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """Findings about a fitted embedder; printing it gives a short text.

    In a notebook it shows as a table. ``diagnosis["collapse"]`` is one finding.

    Attributes
    ----------
    subject : str
        What was looked at.
    findings : tuple of Finding
    """

    subject: str
    findings: tuple[Finding, ...]

    def __getitem__(self, name: str) -> Finding:
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise KeyError(f"{name!r} is none of {[finding.name for finding in self.findings]}")

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    @property
    def severity(self) -> str:
        """The most serious severity."""
        return max((finding.severity for finding in self), key=SEVERITIES.index)

    @property
    def headline(self) -> str:
        """One line: the subject, and how many findings need a look."""
        count = sum(finding.needs_a_look for finding in self)
        if not count:
            return f"{self.subject}: nothing to worry about"
        verb = "needs" if count == 1 else "need"
        return f"{self.subject}: {count} of {len(self)} findings {verb} a look"

    def to_dict(self) -> dict[str, Any]:
        """Return everything, as text, numbers, lists and dictionaries of them.

        Returns
        -------
        dict
            ``subject``, ``severity``, and ``findings`` by name.
        """
        return {
            "subject": self.subject,
            "severity": self.severity,
            "findings": {finding.name: finding.to_dict() for finding in self},
        }

    def __str__(self) -> str:
        lines = [self.headline]
        for finding in self:
            lines += _lines(finding, 2 + max(len(each.name) for each in self))
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return findings_table(self.headline, self.findings)


def _lines(finding: Finding, width: int) -> list[str]:
    """Lay a finding out: mark, name, summary; advice below it where it needs a look."""
    indent = " " * (width + 2)
    first = f"{_MARKS[finding.severity]} {finding.name:<{width}}"
    lines = wrap(finding.summary, _WIDTH, initial_indent=first, subsequent_indent=indent)
    if finding.needs_a_look and finding.advice:
        advice = f"Try: {finding.advice}"
        lines += wrap(advice, _WIDTH, initial_indent=indent, subsequent_indent=indent)
    return lines


# The word stands beside the colour.
_COLORS = {
    "not applicable": GREY,
    "ok": GREEN,
    "warning": ORANGE,
    "problem": VERMILION,
}
_CELL = "text-align: left; vertical-align: top; padding: 0.2em 0.6em;"


def findings_table(headline: str, findings: Sequence[Finding]) -> str:
    """Return a headline and a table, with no styles that others could see.

    Parameters
    ----------
    headline : str
    findings : sequence of Finding

    Returns
    -------
    str
    """
    rows = "".join(map(_row, findings))
    return (
        f'<div class="hscl-findings"><p><b>{escape(headline)}</b></p>'
        f"<table><tbody>{rows}</tbody></table></div>"
    )


def _row(finding: Finding) -> str:
    color = _COLORS[finding.severity]
    advice = ""
    if finding.needs_a_look and finding.advice:
        advice = f"<br><i>Try:</i> {escape(finding.advice)}"
    return (
        f'<tr><td style="{_CELL} border-left: 0.4em solid {color}">'
        f"{escape(finding.severity)}</td>"
        f'<td style="{_CELL}">{escape(finding.name)}</td>'
        f'<td style="{_CELL}">{escape(finding.summary)}{advice}</td></tr>'
    )
