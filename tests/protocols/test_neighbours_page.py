"""``erssl embed neighbors=``: neighbours, near-duplicates, a map; the page runs nothing."""

import html.parser
import importlib.machinery
import importlib.util
import re
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

import erssl
from erssl.data.folders import ImageFiles
from erssl.errors import ConfigError, DataError, RunError
from erssl.evaluation import similar
from erssl.evaluation.similar import map_of, near_duplicates, nearest_others

from .test_embed import CNN, SMALL, paint

EVIL = "<img src=x onerror=document.title='owned'>"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(params=["faiss", "products"])
def searcher(request, monkeypatch):
    if request.param == "faiss":
        pytest.importorskip("faiss")
    else:
        find = importlib.util.find_spec
        monkeypatch.setattr(
            similar.importlib.util, "find_spec", lambda n: None if n == "faiss" else find(n)
        )
    return request.param


def test_neighbours_are_scikit_learns(searcher):
    features = torch.randn(70, 12, generator=torch.Generator().manual_seed(0))
    ours = nearest_others(features, 5)
    theirs = NearestNeighbors(n_neighbors=6, metric="cosine", algorithm="brute")
    distance, index = theirs.fit(features.double()).kneighbors(features.double())
    assert ours.numbers.tolist() == index[:, 1:].tolist()
    assert ours.similarity.numpy() == pytest.approx(1 - distance[:, 1:], abs=1e-6)


def test_fewer_images_than_neighbours_and_copies(searcher):
    features = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    ours = nearest_others(features, 9)  # of FAISS the six others would be image -1
    assert ours.numbers.shape == (3, 2)
    assert [sorted(row) for row in ours.numbers.tolist()] == [[1, 2], [0, 2], [0, 1]]
    assert nearest_others(features[:1], 9).numbers.shape == (1, 0)
    copies = nearest_others(features[:1].expand(8, 4), 2)
    assert all(row not in others for row, others in enumerate(copies.numbers.tolist()))
    pairs = near_duplicates(copies, 0.99)
    assert all(pair.first < pair.second for pair in pairs)
    assert len({pair[:2] for pair in pairs}) == len(pairs) >= 8


def test_near_duplicates_are_those_of_brute_force():
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(2)).double()
    unit = features / features.norm(dim=1, keepdim=True)
    cosine = unit @ unit.T
    expected = {(i, j) for i in range(40) for j in range(i) if cosine[i, j] >= 0.8}
    found = near_duplicates(nearest_others(features, 39), 0.8)
    assert {(pair.second, pair.first) for pair in found} == expected != set()
    values = [pair.similarity for pair in found]
    assert values == sorted(values, reverse=True)


def test_map_by_pca_is_scikit_learns_and_few_images_have_one_too():
    features = torch.randn(30, 5, generator=torch.Generator().manual_seed(3)).double()
    unit = features / features.norm(dim=1, keepdim=True)
    theirs = PCA(2).fit_transform(unit.numpy())
    assert np.abs(map_of(features)) == pytest.approx(np.abs(theirs), abs=1e-9)
    assert map_of(features[:1]).tolist() == [[0, 0]]
    for count in (2, 3, 5):
        for kind in ("pca", "tsne"):
            places = map_of(features[:count], kind)
            assert places.shape == (count, 2)
            assert np.isfinite(places).all()
    assert map_of(features[:6, :1], "tsne").shape == (6, 2)


class Reader(html.parser.HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Twelve images with one pair that leaks, under names that are HTML; the page of them."""
    folder = tmp_path_factory.mktemp("similar")
    for number in range(8):
        paint(folder / "train" / ("cats" if number % 2 else EVIL) / f"{number}.png", number)
    for number in range(4):
        paint(folder / "val" / ("cats" if number % 2 else EVIL) / f"v{number}.png", 100 + number)
    paint(folder / "val" / "cats" / f"{EVIL.replace('x', '2')}.png", 3)  # as train/cats/3.png
    options = {**SMALL, "data.train_dir": folder / "train", "data.val_dir": folder / "val"}
    said = {"neighbors": 3, "duplicates": 0.999999, **options}
    return erssl.embed(CNN, "imagefolder", folder / "out" / "f", **said), folder


def test_page_shows_neighbours_duplicates_and_leaks(made):
    result, folder = made
    assert (result.results["near_duplicates"], result.results["leaks"]) == (1, 1)
    page = (folder / "out" / "f.html").read_text(encoding="utf-8")
    unit = np.load(result.path).astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosine = unit @ unit.T
    files = result.results["files"]
    for number, block in enumerate(re.findall(r'<div class="row" id="image\d+">(.*?)</div>', page)):
        titles = [a["title"] for t, a in Reader(block).tags if t == "img"]
        shown = [files.index(re.sub(r" \((train|val), .*\)$", "", title)) for title in titles]
        assert shown[0] == number
        assert len({*shown}) == 4
        best = np.sort(np.delete(cosine[number], number))[:-4:-1]
        assert cosine[number, shown[1:]] == pytest.approx(best, abs=1e-6)
        said = re.findall(r"<figcaption>([01]\.\d{3})<br>", block)
        assert [float(value) for value in said] == pytest.approx(best, abs=6e-4)
    assert number == 12
    reader = Reader(page)
    assert not [a for t, a in reader.tags if t in ("script", "iframe", "link")]
    assert not [name for _, a in reader.tags for name in a if name.startswith("on")]
    sources = [a.get("src") or a.get("href") for t, a in reader.tags if t in ("img", "image")]
    assert len(sources) == 13 * 4 + 2 + 13
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert page.count('<div class="grid">') == page.count('<div class="pair">') == 1
    assert "little trained or collapsed one everything is alike" in page
    assert EVIL in reader.text  # as text, in a caption
    assert "1 pairs of a similarity of at least 0.999999, 1 of them with one image" in page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_html_in_class_and_file_names_is_text_to_a_browser(made, tmp_path):
    """With the browser alone, which needs no package of Python's."""
    file = made[1] / "out" / "f.html"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    reader = Reader(done.stdout)
    assert f"Features of {CNN}" in reader.text  # the title that an image of the names would change
    assert any(EVIL in text for text in reader.text)
    shown = [attributes.get("src", "") for tag, attributes in reader.tags if tag == "img"]
    assert len(shown) > 20 and all(src.startswith("data:image/jpeg;base64,") for src in shown)
    assert not [name for _, attributes in reader.tags for name in attributes if name[:2] == "on"]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_page_opens_in_a_browser_and_runs_nothing(made):
    sync_api = pytest.importorskip("playwright.sync_api")
    asked, faults = [], []
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: faults.append(message.text))
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.goto((made[1] / "out" / "f.html").as_uri())
        assert tab.title() == f"Features of {CNN}"
        widths = tab.eval_on_selector_all("figure img", "all => all.map(i => i.naturalWidth)")
        assert len(widths) == 54
        assert min(widths) > 40
        assert tab.locator("svg image").count() == 13
        assert tab.locator("figcaption", has_text=EVIL).first.is_visible()
        boxes = tab.eval_on_selector_all(
            "svg image", "all => all.map(i => { const b = i.getBoundingClientRect(); return b.x; })"
        )
        assert len({round(x) for x in boxes}) > 6  # the map is spread
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert faults == []


def test_a_single_image_has_a_page(tmp_path):
    paint(tmp_path / "one" / "a&b.png", 0)
    result = erssl.embed(CNN, tmp_path / "one", tmp_path / "f", neighbors=5, map="tsne", **SMALL)
    assert np.load(result.path).shape[0] == 1
    page = (tmp_path / "f.html").read_text()
    assert "a&amp;b.png" in page
    assert "0 pairs" in page


def test_chosen_images_by_name_and_what_is_refused(tmp_path):
    for seed, name in enumerate(("x/a.png", "y/a.png", "y/b.png")):
        paint(tmp_path / "photos" / name, seed)

    def embed(**said):
        return erssl.embed(
            CNN, tmp_path / "photos", tmp_path / "f", **{"neighbors": 1, **SMALL, **said}
        )

    for queries, sentence in ((["a.png"], "name of 2 images"), (["c.png"], "none of the images")):
        with pytest.raises(DataError, match=sentence):
            embed(queries=queries)
    for said in ({"neighbors": 0}, {"duplicates": 2.0}, {"on": "patches"}, {"queries": 0}):
        with pytest.raises(ConfigError):
            embed(**said)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos"]
    embed(queries=["y/a.png", "b.png"])
    page = (tmp_path / "f.html").read_text()
    assert re.findall(r'id="image(\d)"', page) == ["1", "2"]
    (tmp_path / "f.npy").unlink()
    (tmp_path / "f.csv").unlink()
    with pytest.raises(RunError, match=r"f\.html exists"):
        embed()


def test_umap_places_the_images_where_it_is_installed(tmp_path, monkeypatch):
    told = {}

    class UMAP:
        def __init__(self, n_neighbors, random_state, init):
            told.update(n_neighbors=n_neighbors, random_state=random_state, init=init)

        def fit_transform(self, rows):
            told["rows"] = rows
            return np.stack([np.arange(len(rows)), np.ones(len(rows))], axis=1).astype(np.float32)

    module = types.ModuleType("umap")
    module.UMAP = UMAP
    module.__spec__ = importlib.machinery.ModuleSpec("umap", None)
    monkeypatch.setitem(sys.modules, "umap", module)
    for number in range(6):
        paint(tmp_path / "some" / f"{number}.png", number)
    erssl.embed(CNN, tmp_path / "some", tmp_path / "f", neighbors=1, map="umap", **SMALL)
    assert (told["n_neighbors"], told["random_state"]) == (5, 0)  # fewer images than its default
    assert np.linalg.norm(told["rows"], axis=1) == pytest.approx(np.ones(6))
    page = (tmp_path / "f.html").read_text()
    assert "UMAP" in page and page.count("<image ") == 6


def test_umap_that_is_missing_names_its_package(tmp_path, monkeypatch):
    paint(tmp_path / "one" / "a.png", 0)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        similar.importlib.util, "find_spec", lambda n: None if n == "umap" else find(n)
    )
    with pytest.raises(ConfigError, match="pip install umap-learn"):
        erssl.embed(CNN, tmp_path / "one", tmp_path / "f", neighbors=1, map="umap", **SMALL)


def test_processes_share_the_work(tmp_path, monkeypatch):
    from erssl.protocols import embed as engine

    monkeypatch.setattr(engine, "SHARD", 2)
    for number in range(9):
        paint(tmp_path / "photos" / f"{number}.png", number)
    whole = erssl.embed(CNN, tmp_path / "photos", tmp_path / "whole", **SMALL)
    seen = []
    read = ImageFiles.__getitem__

    def counted(self, index):
        seen.append(index)
        return read(self, index)

    monkeypatch.setattr(ImageFiles, "__getitem__", counted)
    shares = []
    for number in range(2):
        seen.clear()
        erssl.embed(CNN, tmp_path / "photos", tmp_path / "f", process=f"{number}/3", **SMALL)
        shares.append(sorted(seen))
    assert shares == [[0, 1, 6, 7], [2, 3, 8]]
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "2")  # as torchrun says it
    seen.clear()
    erssl.embed(CNN, tmp_path / "photos", tmp_path / "f", **SMALL)
    assert sorted(seen) == [4, 5]
    assert not (tmp_path / "f.npy").exists()
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    seen.clear()
    result = erssl.embed(CNN, tmp_path / "photos", tmp_path / "f", **SMALL)
    assert seen == []  # all features were there
    assert np.array_equal(np.load(result.path), np.load(whole.path))
    assert not (tmp_path / "f.npy.parts").exists()
    for wrong in ("3/3", "x", "1", "-1/2"):
        with pytest.raises(ConfigError, match="is no share of the work"):
            erssl.embed(CNN, tmp_path / "photos", tmp_path / "g", process=wrong, **SMALL)
