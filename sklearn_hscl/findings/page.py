"""Findings as HTML."""

from collections.abc import Sequence
from html import escape

from sklearn_hscl.colors import GREEN, GREY, ORANGE, VERMILION
from sklearn_hscl.findings.finding import Finding

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
