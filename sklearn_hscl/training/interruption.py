"""Recipient of Ctrl-C: the user who called fit, or the estimator that did."""

import sys
from types import FrameType

from sklearn_hscl._sklearn_compat import WRAPPER_MODULES


def called_by_another_estimator() -> bool:
    """Whether a pipeline, a search or joblib stands between the user and this call.

    They would take an interrupted fit for a complete one, and go on.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        is_wrapper = module in WRAPPER_MODULES
        if module.partition(".")[0] in ("sklearn", "joblib") and not is_wrapper:
            return True
        frame = frame.f_back
    return False
