"""Former name of :mod:`erssl.loss.state`."""

from erssl.loss.state import *  # noqa: F403
