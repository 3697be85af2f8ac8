"""What the functions of commands take."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import nn

    from erssl.data.given import GivenData

Place: TypeAlias = "str | PathLike[str]"
Data: TypeAlias = "str | GivenData | None"
Backbone: TypeAlias = "str | nn.Module | None"
