"""Rows of the zoo, and files that are fetched whole, right, or not at all."""

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.error import URLError

import pytest
import torch
import torchvision
import yaml
from lightly.models.zoo import ZOO

from erssl import load_backbone
from erssl.errors import ConfigError, DataError
from erssl.evaluation.published import published
from erssl.models import BackboneOptions, build_backbone
from erssl.models.architectures import infer_architecture
from erssl.models.foreign import load_branch
from erssl.models.layouts import LAYOUTS
from erssl.models.zoo import add_row, own_zoo, zoo_file, zoo_row, zoo_rows


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("ERSSL_HOME", str(tmp_path / "home"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def weights(tmp_path):
    """A ResNet-18 as MoCo writes it, and the network."""
    net = torchvision.models.resnet18(num_classes=16)
    state = {f"module.encoder_q.{name}": tensor for name, tensor in net.state_dict().items()}
    file = tmp_path / "there" / "model.pth.tar"
    file.parent.mkdir()
    torch.save({"epoch": 1, "state_dict": state | {"module.queue": torch.zeros(2)}}, file)
    return file, net


def user_rows(**rows):
    own_zoo().parent.mkdir(parents=True, exist_ok=True)
    own_zoo().write_text(yaml.safe_dump({"rows": rows}))


def row_of(file, **fields):
    return {
        "method": "MoCo v2",
        "url": file.as_uri(),
        "arch": "resnet18",
        "layout": "MoCo",
    } | fields


def test_every_row_can_be_built_and_read():
    layouts = {rule.name: rule for rule in LAYOUTS}
    inferred = {}
    for row in zoo_rows().values():
        assert row.arch is not None
        if (key := (repr(row.arch), row.layout)) in inferred:
            continue
        with torch.device("meta"):
            backbone = build_backbone(row.arch)
        rule = layouts[row.layout]
        inferred[key] = infer_architecture(backbone.state_dict(), rule.stem_padding, rule.vit_heads)
        assert inferred[key] == row.arch  # so the row and a file by hand give the same


def test_what_rows_say_is_well_formed():
    rows = zoo_rows().values()
    files = [row.file_name for row in rows]
    assert len(set(files)) == len(files)
    names = [name for row in rows for name in (row.name, *row.aliases)]
    assert len(set(names)) == len(names)
    for row in rows:
        assert re.fullmatch(r"https://[^ ]+", row.url)
        assert row.method and row.source and not row.own
        assert re.fullmatch(r"(\d{4}\.\d{5})?", row.paper)
        assert all(10 < value < 100 for value in row.published.values())
        hashed = re.search(r"-([0-9a-f]{8})\.pth$", row.url)
        if row.sha256:
            assert hashed[1] == row.sha256


def test_lightlys_own_zoo_is_in_ours():
    for name, url in ZOO.items():
        assert zoo_row(name).url == url


def test_lightlys_benchmark_rows_agree_with_its_tables():
    for protocol in ("linear", "finetune", "knn"):
        groups = published(protocol, "imagenet", kept="maximum over epochs")
        (group,) = groups
        rows = {
            r.method: r
            for r in zoo_rows().values()
            if "lightly's benchmarks" in r.source and r.arch.name == "resnet50"
        }
        assert set(group["rows"]) == set(rows)
        for method, values in group["rows"].items():
            for metric, value in values.items():
                assert rows[method].published[f"{protocol}_{metric}"] == value


def test_unknown_names_get_the_nearest():
    with pytest.raises(DataError, match=r"no 'mocov2_80ep' in the zoo; .*mocov2_800ep"):
        load_backbone("zoo:mocov2_80ep")
    for name in ("../../etc/passwd", "", "/"):
        with pytest.raises(DataError, match="in the zoo"):
            zoo_file(name)


def test_a_row_is_fetched_and_loaded(weights, folders, capfd):
    file, net = weights
    user_rows(mine=row_of(file, preprocessing={"std": [0.228, 0.224, 0.225]}))
    backbone = load_backbone("zoo:mine")
    torch.testing.assert_close(backbone.conv1.weight, net.conv1.weight, rtol=0, atol=0)
    assert backbone.report.layout == "MoCo" and backbone.report.heads == 2
    assert backbone.preprocessing["std"] == [0.228, 0.224, 0.225]
    assert backbone.preprocessing["image_size"] == 224
    assert [f.name for f in folders.iterdir()] == ["mine-model.pth.tar"]
    assert capfd.readouterr().out == ""  # the progress bar goes to stderr
    file.unlink()
    assert load_backbone("zoo:mine").feature_dim == 512  # from the folder
    assert zoo_rows()["mine"].cached


def test_the_head_in_a_rows_file_is_read_too(weights):
    file, net = weights
    user_rows(mine=row_of(file))
    _, head = load_branch("zoo:mine", head_prefix="encoder_q.fc.")
    features = torch.randn(2, 512)
    torch.testing.assert_close(head(features), net.fc(features))


def test_two_files_of_one_name_do_not_meet(weights, tmp_path):
    file, _ = weights
    other = tmp_path / "elsewhere" / file.name
    other.parent.mkdir()
    other.write_bytes(b"another")
    user_rows(mine=row_of(file), yours=row_of(other))
    assert zoo_file("mine")[0].read_bytes() == file.read_bytes()
    assert zoo_file("yours")[0].read_bytes() == b"another"


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_checksums_hold_after_download_and_later(weights, folders, kind):
    file, _ = weights
    digest = hashlib.new(kind, file.read_bytes()).hexdigest()
    user_rows(mine=row_of(file, **{kind: digest[:8]}), wrong=row_of(file, **{kind: "00000000"}))
    kept, _ = zoo_file("mine")
    with pytest.raises(DataError, match=rf"not the published file of wrong \({kind} .*not kept"):
        zoo_file("wrong")
    assert list(folders.iterdir()) == [kept]
    kept.write_bytes(b"damaged")
    with pytest.raises(DataError, match=rf"delete the file at {re.escape(str(kept))}"):
        zoo_file("mine")


def test_without_a_network_the_way_by_hand_is_told(monkeypatch, folders):
    def refuse(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    with pytest.raises(DataError) as caught:
        zoo_file("vicreg")
    sentence = str(caught.value)
    assert "https://dl.fbaipublicfiles.com/vicreg/resnet50.pth" in sentence
    assert f"put the file at {folders / 'vicreg-resnet50.pth'}" in sentence
    assert list(folders.iterdir()) == []
    (folders / "vicreg-resnet50.pth").write_bytes(b"by hand")
    assert zoo_file("vicreg")[0].read_bytes() == b"by hand"


def test_a_broken_download_is_not_kept(folders, monkeypatch):
    class Short(BaseHTTPRequestHandler):
        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(b"half")

        def do_HEAD(self):
            self.send_response(200)
            self.send_header("Content-Length", "8")
            self.end_headers()

        def log_message(self, *_):
            pass

    monkeypatch.setenv("no_proxy", "*")
    server = HTTPServer(("127.0.0.1", 0), Short)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        user_rows(mine={"url": f"http://127.0.0.1:{server.server_port}/model.pth"})
        with pytest.raises(DataError, match="broke off after 4 of 8 bytes"):
            zoo_file("mine")
    finally:
        server.shutdown()
        server.server_close()
    assert list(folders.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"url": "ftp://example.org/a.pth"}, "must begin with https://"),
        ({"url": "https://example.org/"}, "no plain file name"),
        ({"url": "https://example.org/a.pth", "file_name": "../a.pth"}, "no plain file name"),
        ({"url": "https://example.org/%2e%2e%2fa.pth", "file_name": ".."}, "no plain file name"),
        ({"url": "https://example.org/a.pth", "layout": "nobody's"}, "layout=nobody's is unknown"),
        ({"url": "https://example.org/a.pth", "md5": "xyz"}, "no checksum"),
        ({"url": "https://example.org/a.pth", "md5": 12345678}, "text, in quotes"),
        ({"url": "https://example.org/a.pth", "epoch": 1}, "there is no field epoch"),
        ({"url": "https://example.org/a.pth", "epochs": "many"}, "a whole number"),
        ({"url": "https://example.org/a.pth", "arch": {"nome": "x"}}, "arch must be a name"),
        ({"url": "https://example.org/a.pth", "preprocessing": {"size": 1}}, "has no size"),
        ({"method": "MoCo"}, "neither url nor file"),
        (["a"], "a mapping of fields"),
    ],
)
def test_rows_that_cannot_be_used_are_refused_in_a_sentence(fields, sentence):
    user_rows(mine=fields)
    with pytest.raises(DataError, match=f"The row mine of .*{re.escape(sentence)}"):
        zoo_rows()


@pytest.mark.parametrize("text", ["rows: [", "- a", "row: {}", "rows: [a]"])
def test_a_damaged_file_of_the_users_is_refused(text):
    user_rows()
    own_zoo().write_text(text)
    with pytest.raises(DataError, match="repair or delete it"):
        zoo_rows()


@pytest.mark.parametrize("name", ["../mine", "a/b", "", ".hidden", "a b", "a" * 101])
def test_names_that_leave_the_folder_are_refused(name, weights):
    with pytest.raises(ConfigError, match="cannot be used"):
        add_row(name, row_of(weights[0]))
    assert not own_zoo().exists()
    user_rows(**{name: row_of(weights[0])})
    with pytest.raises(DataError, match="cannot be used"):
        zoo_rows()


def test_a_name_is_taken_once(weights):
    row = row_of(weights[0], sha256="59123456")
    assert add_row("mine", row).arch == BackboneOptions("resnet18")
    assert zoo_rows()["mine"].sha256 == "59123456"  # and no number, as YAML might have it
    with pytest.raises(ConfigError, match=r"already in .*overwrite=true"):
        add_row("mine", row)
    assert add_row("mine", row | {"epochs": 3}, overwrite=True).epochs == 3
    assert list(zoo_rows())[-1] == "mine"
    assert list(own_zoo().parent.iterdir()) == [own_zoo()]
    with pytest.raises(ConfigError, match="built-in zoo"):
        add_row("vicreg", row, overwrite=True)
    user_rows(vicreg=row)
    with pytest.raises(DataError, match="name of the built-in zoo; rename it"):
        zoo_rows()


def test_lightlys_transformers_are_read_under_their_wrapper(tmp_path):
    vit = build_backbone(zoo_row("lightly_ibot_vits16").arch).state_dict()
    wrapped = {f"teacher_backbone.vit.{name}": tensor for name, tensor in vit.items()}
    wrapped |= {"teacher_backbone.mask_token": torch.zeros(1, 1, 384)}
    wrapped |= {f"student_backbone.vit.{name}": torch.zeros_like(t) for name, t in vit.items()}
    torch.save({"state_dict": wrapped}, tmp_path / "ibot.ckpt")
    backbone = load_backbone(tmp_path / "ibot.ckpt")
    assert backbone.report.layout == "lightly, timm" and not backbone.report.missing
    torch.testing.assert_close(backbone.state_dict()["cls_token"], vit["cls_token"])
