"""Lightning callbacks; of a module they use ``forward``, ``embed`` and ``criterion`` only."""

from erssl.callbacks.checkpoint import RunCheckpoint, SeededSteps
from erssl.callbacks.collapse import CollapseGuard
from erssl.callbacks.csv_logger import ResumableCSVLogger
from erssl.callbacks.er_lens import ERLens
from erssl.callbacks.nonfinite import NonFiniteGuard, OnNonFinite
from erssl.callbacks.online_knn import OnlineKNN
from erssl.callbacks.progress import LiveProgress
from erssl.callbacks.reduction import RankOrderedGradients
from erssl.callbacks.starting import FrozenBackbone, LengthenedSchedule

__all__ = [
    "CollapseGuard",
    "ERLens",
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
