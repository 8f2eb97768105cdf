"""Diagnosis of a fitted embedder: what is wrong, and what to try next."""

from sklearn_hscl.diagnostics.diagnose import diagnose
from sklearn_hscl.reports.diagnosis import Diagnosis, Finding

__all__ = ["Diagnosis", "Finding", "diagnose"]
