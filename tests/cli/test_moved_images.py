"""A run goes on with the same images at another place, and with no others."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest

from erssl.data.places import content_of
from erssl.data.shards import shards_digest
from erssl.errors import ConfigError
from erssl.run.directory import RunDirectory
from erssl.settings.pretrain import read_settings
from erssl.studies.store import key_of


def _begun(folder: Path, *overrides: str) -> Path:
    """A run directory that holds its settings alone."""
    config = read_settings(["method=simclr", f"run_dir={folder}", *overrides])[1]
    folder.mkdir()
    RunDirectory(folder).write_config(config)
    return folder


def _resumed(run: Path, *overrides: str) -> dict[str, object]:
    content_of.cache_clear()  # folders and tars are read once a process
    shards_digest.cache_clear()
    data = read_settings(["resume=true", f"run_dir={run}", *overrides])[1]["data"]
    assert isinstance(data, dict)
    return data


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of one class with one file."""
    (tmp_path / "images" / "class").mkdir(parents=True)
    (tmp_path / "images" / "class" / "image.png").write_bytes(b"123")
    return tmp_path / "images"


@pytest.fixture
def run(images: Path, tmp_path: Path) -> Path:
    """A run on these images."""
    return _begun(tmp_path / "run", "data=imagefolder", f"data.train_dir={images}")


def test_a_copy_of_the_images_is_taken_and_recorded(
    run: Path, images: Path, tmp_path: Path
) -> None:
    """As the store of a study has it, where both have one key."""
    copy = shutil.copytree(images, tmp_path / "copy")
    own = ("data=imagefolder", f"data.train_dir={copy}")
    assert _resumed(run, *own)["train_dir"] == str(copy)
    keys = [
        key_of(read_settings(["method=simclr", "data=imagefolder", f"data.train_dir={each}"])[1])
        for each in (images, copy)
    ]
    assert keys[0] == keys[1]
    shutil.rmtree(images)
    assert _resumed(run, *own)["train_dir"] == str(copy)


def test_other_images_are_refused(run: Path, images: Path, tmp_path: Path) -> None:
    """A file of another size, a folder that is not there, a place that is left out."""
    copy = shutil.copytree(images, tmp_path / "copy")
    (copy / "class" / "image.png").write_bytes(b"1234")
    for other in (copy, tmp_path / "nowhere", "null"):
        with pytest.raises(ConfigError, match=r"data\.train_dir=.* differs"):
            _resumed(run, "data=imagefolder", f"data.train_dir={other}")
    shutil.rmtree(images)
    with pytest.raises(ConfigError, match=r"data\.train_dir=.* differs"):
        _resumed(run, "data=imagefolder", f"data.train_dir={tmp_path / 'nowhere'}")


def test_what_a_data_set_is_checked_by_may_differ(run: Path, images: Path) -> None:
    """Whether images are decoded beforehand computes nothing."""
    assert _resumed(run)["verify"] is True
    own = ("data=imagefolder", f"data.train_dir={images}")
    assert _resumed(run, *own, "data.verify=false")["verify"] is False


def test_a_data_set_that_is_the_same_everywhere_may_lie_anywhere(tmp_path: Path) -> None:
    """CIFAR-10 has one content, also at the place that is taken where none is said."""
    run = _begun(tmp_path / "run", "data=cifar10")
    root = tmp_path / "cifar"
    assert _resumed(run, "data=cifar10", f"data.root={root}")["root"] == str(root)


def test_a_name_on_a_hub_is_not_a_folder_that_is_gone(tmp_path: Path) -> None:
    """A folder of images is no data set of that name."""
    run = _begun(tmp_path / "run", "data=hf", "data.path=somebody/images")
    with pytest.raises(ConfigError, match=r"data\.path=.* differs from somebody/images"):
        _resumed(run, "data=hf", f"data.path={tmp_path}")


def _tars(folder: Path, content: bytes = b"123") -> str:
    """Two tars of one file each, as ``data.shards`` names them."""
    folder.mkdir(exist_ok=True)
    (folder / "image.png").write_bytes(content)
    for number in range(2):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            tar.add(folder / "image.png", "image.png")
    return f"{folder}/{{0..1}}.tar"


def test_tars_are_what_lies_in_them(tmp_path: Path) -> None:
    """Moved they are the same images; of other members, though as long, they are not."""
    old, new = _tars(tmp_path / "old"), _tars(tmp_path / "new")
    run = _begun(tmp_path / "run", "data=wds", f"data.shards={old}")

    def key(shards: str) -> str:
        shards_digest.cache_clear()
        return key_of(read_settings(["method=simclr", "data=wds", f"data.shards={shards}"])[1])

    assert _resumed(run, "data=wds", f"data.shards={new}")["shards"] == new
    before = key(old)
    assert key(new) == before
    size = (tmp_path / "new" / "0.tar").stat().st_size
    _tars(tmp_path / "new", b"1234")
    assert (tmp_path / "new" / "0.tar").stat().st_size == size
    assert key(new) != before
    for other in (new, f"{tmp_path}/nowhere/{{0..1}}.tar"):
        with pytest.raises(ConfigError, match=r"data\.shards=.* differs"):
            _resumed(run, "data=wds", f"data.shards={other}")
    (tmp_path / "old" / "1.tar").unlink()  # of tars that are gone it is taken on trust
    assert _resumed(run, "data=wds", f"data.shards={new}")["shards"] == new


def test_tars_at_an_address_are_that_address(tmp_path: Path) -> None:
    """Whether they have been fetched or not."""
    run = _begun(tmp_path / "run", "data=wds", "data.shards=https://example.org/{0..1}.tar")
    with pytest.raises(ConfigError, match=r"data\.shards=.* differs"):
        _resumed(run, "data=wds", "data.shards=https://example.org/{0..2}.tar")
    own = "https://example.org/0.tar https://example.org/1.tar"
    assert _resumed(run, "data=wds", f"data.shards={own}")["shards"] == own
