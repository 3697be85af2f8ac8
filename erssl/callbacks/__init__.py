"""Lightning callbacks; of a module they use ``forward``, ``embed`` and ``criterion`` only."""

from erssl.callbacks.metrics import ResumableCSVLogger
from erssl.callbacks.online_knn import OnlineKNN
from erssl.callbacks.progress import LiveProgress

__all__ = ["LiveProgress", "OnlineKNN", "ResumableCSVLogger"]
