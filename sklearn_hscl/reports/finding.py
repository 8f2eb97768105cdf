"""One finding: its values, its severity, and what to try next."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

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
