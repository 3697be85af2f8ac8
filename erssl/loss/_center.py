"""Former name of :mod:`erssl.loss.center`."""

from erssl.loss.center import *  # noqa: F403
