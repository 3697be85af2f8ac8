"""Lightning callbacks; of a module they use ``forward``, ``embed`` and ``criterion`` only."""

from typing import TYPE_CHECKING, Any

from erssl.callbacks.checkpoint import RunCheckpoint, SeededSteps
from erssl.callbacks.collapse import CollapseGuard
from erssl.callbacks.csv_logger import ResumableCSVLogger
from erssl.callbacks.elapsed import Elapsed
from erssl.callbacks.er_lens import ERLens
from erssl.callbacks.nonfinite import NonFiniteGuard, OnNonFinite
from erssl.callbacks.online_knn import OnlineKNN
from erssl.callbacks.progress import LiveProgress
from erssl.callbacks.reduction import RankOrderedGradients
from erssl.callbacks.starting import FrozenBackbone, LengthenedSchedule
from erssl.former_names import former

__all__ = [
    "CollapseGuard",
    "ERLens",
    "Elapsed",
    "FrozenBackbone",
    "LengthenedSchedule",
    "LiveProgress",
    "NonFiniteGuard",
    "OnNonFinite",
    "OnlineKNN",
    "RankOrderedGradients",
    "ResumableCSVLogger",
    "RunCheckpoint",
    "SeededSteps",
]

if not TYPE_CHECKING:  # or every name would pass for one of the package

    def __getattr__(name: str) -> Any:
        return former(__name__, name, {"SignalWatch": "erssl.run.signals.SignalWatch"})
