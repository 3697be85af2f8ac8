"""Former name of :mod:`erssl.entropy.precision`."""

from erssl.entropy.precision import *  # noqa: F403
