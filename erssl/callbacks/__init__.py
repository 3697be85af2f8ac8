"""Lightning callbacks; of a module they use ``forward``, ``embed`` and ``criterion`` only."""

from erssl.callbacks.collapse import CollapseGuard
from erssl.callbacks.lens import ERLens
from erssl.callbacks.metrics import ResumableCSVLogger
from erssl.callbacks.online_knn import OnlineKNN
from erssl.callbacks.progress import LiveProgress

__all__ = ["CollapseGuard", "ERLens", "LiveProgress", "OnlineKNN", "ResumableCSVLogger"]
