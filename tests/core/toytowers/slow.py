"""An observer that takes its time, so that a run can be killed in the middle."""

from __future__ import annotations

import time
from collections.abc import Mapping

from unlabel import Observer, Progress


class Slow(Observer):
    """Waits a tenth of a second whenever something is logged."""

    def log(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        time.sleep(0.1)
