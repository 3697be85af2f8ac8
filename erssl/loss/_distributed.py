"""Former name of :mod:`erssl.loss.distributed`."""

from erssl.loss.distributed import *  # noqa: F403
