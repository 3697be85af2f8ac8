"""The site of the documentation: ``python -m sphinx -W docs <folder>``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert

import erssl

project = "erssl"
author = "The erssl authors"
copyright = author
version = release = erssl.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
html_math_renderer = "mathml"  # below: read without a network, by the browser itself
html_static_path = ["_static"]
html_css_files = ["site.css"]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
html_theme = "furo"
html_title = f"erssl {version}"

myst_enable_extensions = ["dollarmath", "fieldlist"]
myst_heading_anchors = 3  # links to headings, as code hosts make them
nb_execution_mode = "off"  # tests/docs/test_notebooks.py runs them
nb_render_markdown_format = "gfm"  # tables

autodoc_member_order = "bysource"
autoclass_content = "both"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
napoleon_use_ivar = True

_DOCS = Path(__file__).parent
_PAGES = {"../CONTRIBUTING.md": "contributing.md", "../README.md": "index.md"}
_OUTSIDE = re.compile(r"\[([^]]*)\]\((\.\./[^)#]+)\)")
_GROUP = re.compile(r"^## (.+)$|^- \[[^]]*\]\(([^)#:]+)\)", re.MULTILINE)


def toctrees(page: str) -> str:
    """Return the navigation of the site: the headings of a page, and the files its lists link."""
    groups: dict[str, list[str]] = {}
    heading = ""
    for match in _GROUP.finditer(page):
        heading = match[1] or heading
        if match[2]:
            groups.setdefault(heading, []).append(match[2])
    return "".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {heading}\n\n" + "\n".join(files) + "\n```\n"
        for heading, files in groups.items()
    )


def _inside(match: re.Match[str]) -> str:
    """Lead a link out of docs/ to its page of the site; name a folder, which the site has not."""
    text, target = match.groups()
    if (_DOCS / target).is_dir():
        return text
    return f"[{text}]({_PAGES.get(target, target)})"


def _read(_app: Any, name: str, source: list[str]) -> None:
    source[0] = _OUTSIDE.sub(_inside, source[0])
    if name == "index":
        source[0] += toctrees(source[0])


def _inline(translator: Any, node: Any) -> None:
    """Write a formula in a line as MathML."""
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _display(translator: Any, node: Any) -> None:
    """Write a formula on lines of its own as MathML."""
    translator.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Let pages be written for code hosts, ``index.md`` with what the navigation holds."""
    app.connect("source-read", _read)
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
