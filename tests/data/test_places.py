"""What a folder of images is known by."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from erssl.data.places import content_of


@pytest.fixture(autouse=True)
def _read_anew() -> Iterator[None]:
    """A place is read once a process."""
    content_of.cache_clear()
    yield
    content_of.cache_clear()


@pytest.mark.parametrize("links", [["nowhere"], ["itself"], [".", "."], ["..", "sub"]])
def test_links_to_nothing_and_in_circles_are_no_error(links: list[str], tmp_path: Path) -> None:
    """A folder with them is known by its files, and again by the same."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "image.png").write_bytes(b"1")
    for number, link in enumerate(links):
        name = "itself" if link == "itself" else f"link{number}"
        (folder / "sub" / name).symlink_to(link)
    before = content_of(str(folder))
    content_of.cache_clear()
    assert content_of(str(folder)) == before
    (folder / "sub" / "image.png").write_bytes(b"22")
    content_of.cache_clear()
    assert content_of(str(folder)) != before
