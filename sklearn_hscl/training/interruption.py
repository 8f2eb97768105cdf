"""Who is to hear of Ctrl-C: the user who called fit, or the estimator that did."""

import sys
from types import FrameType

# Modules through which a user's own call of fit or fit_transform goes.
_TRANSPARENT = ("sklearn.base", "sklearn.utils._set_output")


def called_by_another_estimator() -> bool:
    """Whether a pipeline, a search or joblib stands between the user and this call.

    They would take an interrupted fit for a complete one, and go on.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] in ("sklearn", "joblib") and module not in _TRANSPARENT:
            return True
        frame = frame.f_back
    return False
