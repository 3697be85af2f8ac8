"""The pages of docs/: read on a code host as they are, and by Sphinx (.ci/run builds the site)."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
_LINK = re.compile(r"\]\((?!https?://|mailto:)([^)\s#]*)(?:#([^)\s]+))?\)")


def _prose(page):
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


def _anchors(page):
    headings = re.findall(r"^#+ (.+)$", _prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.strip().lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page):
    for file, anchor in _LINK.findall(_prose(page)):
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{page} links {file}"
        if anchor:
            assert anchor in _anchors(target), f"{page} links {file}#{anchor}"


def test_the_index_lists_every_page():
    listed = {file for file, _ in _LINK.findall(_prose(DOCS / "index.md"))}
    pages = {
        path.relative_to(DOCS).as_posix()
        for path in DOCS.rglob("*")
        if path.suffix in (".md", ".ipynb") and "_build" not in path.parts
    }
    assert pages - {"index.md"} <= listed
