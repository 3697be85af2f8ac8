"""Published numbers of each protocol, to print beside ours."""

from __future__ import annotations

from typing import Any


def published(protocol: str, dataset: str, **setting: Any) -> dict[str, Any] | None:
    """Groups of published numbers of a protocol on a data set, or ``None``."""
    return None
