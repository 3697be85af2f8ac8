"""Blocks of code in README, CONTRIBUTING and the pages of docs/."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def blocks(page, language="python"):
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def block(page, mark, language="python"):
    """The one block of a page in which a mark stands."""
    (code,) = (each for each in blocks(page, language) if mark in each)
    return code


def run_block(page, mark, **names):
    """What the names of a block are after it; ``names`` are those that it finds."""
    exec(block(page, mark), names)
    return names
