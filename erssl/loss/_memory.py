"""Former name of :mod:`erssl.loss.memory`."""

from erssl.loss.memory import *  # noqa: F403
