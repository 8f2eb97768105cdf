"""One finding: a number, how serious it is, and what to try next."""

from dataclasses import dataclass, field
from typing import Any

# From harmless to serious.
SEVERITIES = ("not applicable", "ok", "warning", "problem")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    name : str
        What was looked at, such as ``"collapse"``.
    severity : {"not applicable", "ok", "warning", "problem"}
        How serious it is.
    summary : str
        What was found, in a sentence or two.
    advice : str
        What to try next, most promising first; empty where there is nothing to do.
    values : dict
        The numbers behind it.
    """

    name: str
    severity: str
    summary: str
    advice: str = ""
    values: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity={self.severity!r} must be one of {SEVERITIES}.")

    @classmethod
    def not_applicable(cls, name: str, reason: str, advice: str = "") -> "Finding":
        """Return a finding that says why there is none."""
        return cls(name, "not applicable", reason, advice)

    @property
    def needs_a_look(self) -> bool:
        """Whether it is a warning or a problem."""
        return SEVERITIES.index(self.severity) > SEVERITIES.index("ok")

    def to_dict(self) -> dict[str, Any]:
        """Return all fields."""
        return {
            "severity": self.severity,
            "summary": self.summary,
            "advice": self.advice,
            "values": dict(self.values),
        }
