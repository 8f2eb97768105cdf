"""Findings about a fitted embedder, and their text, dictionary and HTML."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from textwrap import wrap
from typing import Any, Literal, Self, get_args

from sklearn_hscl.plotting.axes import GREEN, GREY, ORANGE, VERMILION

Severity = Literal["not applicable", "ok", "warning", "problem"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""From least to most serious."""
# Any, as users compute with the values of a finding.
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """One finding of a diagnosis.

    Attributes
    ----------
    name : str
        Name of the finding, such as ``"collapse"``.
    severity : {"not applicable", "ok", "warning", "problem"}
        How serious it is.
    summary : str
        Result in one or two sentences.
    advice : str
        What to try next, most promising first; empty if there is nothing to do.
    values : dict
        Numbers, None and lists that the finding is based on.
    """

    name: str
    severity: Severity
    summary: str
    advice: str = ""
    values: Values = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(
                f"severity must be one of {SEVERITIES}, got severity={self.severity!r}."
            )

    @classmethod
    def not_applicable(cls, name: str, reason: str, advice: str = "") -> Self:
        """Return a finding that was not possible, with the reason."""
        return cls(name, "not applicable", reason, advice)

    @property
    def needs_attention(self) -> bool:
        """True for a warning or a problem."""
        return SEVERITIES.index(self.severity) > SEVERITIES.index("ok")

    def to_dict(self) -> dict[str, object]:
        """Return severity, summary, advice and values."""
        return {
            "severity": self.severity,
            "summary": self.summary,
            "advice": self.advice,
            "values": dict(self.values),
        }


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """Findings about a fitted embedder; printing it gives a short text.

    In a notebook it shows as a table. ``diagnosis["collapse"]`` is one finding.

    Attributes
    ----------
    subject : str
        Estimator and samples that the findings are about.
    findings : tuple of Finding
    """

    subject: str
    findings: tuple[Finding, ...]

    def __getitem__(self, name: str) -> Finding:
        for finding in self.findings:
            if finding.name == name:
                return finding
        names = [finding.name for finding in self.findings]
        raise KeyError(f"Expected the name of a finding, one of {names}, got {name!r}.")

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
        """One line: the subject, and how many findings need attention."""
        count = sum(finding.needs_attention for finding in self)
        if not count:
            return f"{self.subject}: no warnings"
        verb = "needs" if count == 1 else "need"
        return f"{self.subject}: {count} of {len(self)} findings {verb} attention"

    def to_dict(self) -> dict[str, object]:
        """Return everything as nested dictionaries of strings, numbers and lists.

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
        width = 2 + max(len(finding.name) for finding in self)
        lines = [line for finding in self for line in _lines(finding, width)]
        return "\n".join([self.headline, *lines])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        rows = "".join(map(_html_row, self.findings))
        return (
            f'<div class="hscl-findings"><p><b>{escape(self.headline)}</b></p>'
            f"<table><tbody>{rows}</tbody></table></div>"
        )


# Text --------------------------------------------------------------------------------

_MAX_WIDTH = 88
_MARKS = {"not applicable": "-", "ok": " ", "warning": "?", "problem": "!"}


def _lines(finding: Finding, name_width: int) -> list[str]:
    """Return mark, name and summary in lines, with the advice below if it is needed."""
    indent = " " * (name_width + 2)
    first = f"{_MARKS[finding.severity]} {finding.name:<{name_width}}"
    lines = wrap(
        finding.summary, _MAX_WIDTH, initial_indent=first, subsequent_indent=indent
    )
    if finding.needs_attention and finding.advice:
        advice = f"Try: {finding.advice}"
        lines += wrap(advice, _MAX_WIDTH, initial_indent=indent, subsequent_indent=indent)
    return lines


# HTML --------------------------------------------------------------------------------

# The severity is also written out, for readers who cannot distinguish the colors.
_COLORS = {"not applicable": GREY, "ok": GREEN, "warning": ORANGE, "problem": VERMILION}
# Inline, as a style element would apply to the whole page.
_CELL = "text-align: left; vertical-align: top; padding: 0.2em 0.6em;"


def _html_row(finding: Finding) -> str:
    color = _COLORS[finding.severity]
    advice = ""
    if finding.needs_attention and finding.advice:
        advice = f"<br><i>Try:</i> {escape(finding.advice)}"
    return (
        f'<tr><td style="{_CELL} border-left: 0.4em solid {color}">'
        f"{escape(finding.severity)}</td>"
        f'<td style="{_CELL}">{escape(finding.name)}</td>'
        f'<td style="{_CELL}">{escape(finding.summary)}{advice}</td></tr>'
    )
