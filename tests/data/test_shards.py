"""Shards at https addresses, from a server on this machine, and what is refused."""

import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console

from erssl.data import default_options
from erssl.errors import DataError
from erssl.protocols import pretrain

from .test_sources import SMALL, encoded, write_tar

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl, which makes a certificate")


class Answers(BaseHTTPRequestHandler):
    """Gives a tar in the way that the first part of the path names."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        way, body = self.path.split("/")[1], self.server.tar
        if way == "gone":
            return self.send_error(404)
        if way in ("http", "https"):
            self.send_response(302)
            port = self.server.server_port if way == "https" else self.server.plain_port
            self.send_header("Location", f"{way}://127.0.0.1:{port}/whole/a.tar")
            self.end_headers()
            return None
        self.send_response(200)
        if way != "unmeasured":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if way in ("cut", "unmeasured"):
            self.wfile.write(body[: len(body) // 2])
        elif way == "slow":
            for start in range(0, len(body), -(-len(body) // 5)):
                self.wfile.write(body[start : start + -(-len(body) // 5)])
                time.sleep(0.1)
        elif way == "stalls":
            self.wfile.write(body[:100])
            self.server.released.wait(5)
        else:
            self.wfile.write(body)
        return None

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def serving(server: ThreadingHTTPServer, tar: bytes) -> ThreadingHTTPServer:
    server.tar, server.asked, server.released = tar, [], threading.Event()
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


@pytest.fixture
def server(tmp_path: Path, monkeypatch) -> Iterator[ThreadingHTTPServer]:
    """An https server whose certificate is trusted, and an http server beside it."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = [OPENSSL, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", key, "-out", cert]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    monkeypatch.setenv("ERSSL_HOME", str(tmp_path / "home"))
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    tar = write_tar(tmp_path / "a.tar", {f"{i}.png": encoded(i) for i in range(8)}).read_bytes()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    secure = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    plain = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    serving(secure, tar).plain_port = plain.server_port
    secure.plain = serving(plain, tar)
    yield secure
    secure.released.set()
    for each in (secure, plain):
        each.shutdown()
        each.server_close()


def address(server: ThreadingHTTPServer, way: str, name: str = "a.tar") -> str:
    return f"https://127.0.0.1:{server.server_port}/{way}/{name}"


def kept(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "home" / "shards").glob("*"))


@pytest.mark.parametrize("way", ["whole", "slow", "https"])
def test_shards_of_a_server_are_those_of_the_disk_and_fetched_once(tmp_path, server, way):
    shards = address(server, way, "s-{0..1}.tar")
    images = default_options("wds", shards=shards).load().train
    local = default_options("wds", shards=str(tmp_path / "a.tar")).load().train
    assert len(images) == 2 * len(local) == 16
    assert [images[i + 8][0].tobytes() for i in range(8)] == [im.tobytes() for im, _ in local]
    asked = list(server.asked)
    assert asked[0] == f"/{way}/s-0.tar"
    default_options("wds", shards=shards).load()
    assert server.asked == asked and len(kept(tmp_path)) == 2


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("cut", r"\d+ of \d+ bytes came"),
        ("unmeasured", "unexpected end of data|ends early"),
        ("gone", "404"),
        ("http", "leads to http://127.0.0.1:.* which is no https address"),
        ("stalls", "timed out"),
    ],
)
def test_what_does_not_come_whole_is_said_and_not_kept(tmp_path, server, monkeypatch, way, said):
    monkeypatch.setattr("erssl.data.shards._SECONDS", 0.3)
    where = address(server, way)
    with pytest.raises(DataError, match=rf"has {where}, which cannot be fetched \(.*({said})"):
        default_options("wds", shards=where).load()
    assert kept(tmp_path) == []
    assert server.plain.asked == []  # it is not even asked


def test_a_server_that_nobody_vouches_for_or_that_is_not_there_is_refused(
    tmp_path, server, monkeypatch
):
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(DataError, match=r"cannot be fetched \(.*certificate verify failed"):
        default_options("wds", shards=address(server, "whole")).load()
    assert server.asked == []
    with pytest.raises(DataError, match=r"address of the kind http:, which is not read"):
        default_options("wds", shards=f"http://127.0.0.1:{server.plain_port}/whole/a.tar").load()
    with pytest.raises(DataError, match="cannot be fetched"):
        default_options("wds", shards="https://127.0.0.1:9/a.tar").load()


def test_shards_of_a_server_train(tmp_path, server):
    run = tmp_path / "run"
    given = ["data=wds", f"data.shards={address(server, 'whole')}", *SMALL, f"run_dir={run}"]
    pretrain.run(given, Console(quiet=True))
    assert (run / "backbone.safetensors").is_file()
    assert "Training images: 8 of 40 x 30 pixels" in (run / "header.txt").read_text()
