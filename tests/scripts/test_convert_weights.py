import hashlib
import http.server
import re
import threading

import numpy as np
import pytest
import safetensors.numpy

from mammo_jax.errors import UserError
from mammo_jax.models import pretrained
from mammo_jax.models.download import download
from mammo_jax.models.pretrained import Published, trunk_shapes
from mammo_jax.models.weight_names import SCHEMES
from scripts import convert_weights

CONTENT = np.random.default_rng(0).bytes(300_000)
CHECKSUM = "md5:" + hashlib.md5(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves one file with ranges; can break off, or know no ranges."""

    def do_GET(self):
        server = self.server
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and server.ranges else 0
        server.starts.append(start)
        if start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.breaks_after])

    def log_message(self, *_):
        """Keeps the test's output quiet."""


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.ranges, server.breaks_after = CONTENT, True, None
    server.starts = []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_address[1]}/weights.bin"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_download_fetches_checks_and_is_not_repeated(server, tmp_path):
    path = download(server.url, tmp_path / "sub" / "weights.bin", CHECKSUM)
    assert path.read_bytes() == CONTENT
    download(server.url, path, CHECKSUM)
    assert server.starts == [0]


def test_broken_download_goes_on_where_it_stopped(server, tmp_path):
    path = tmp_path / "weights.bin"
    server.breaks_after = 100_000
    with pytest.raises(UserError, match="Run the same command again"):
        download(server.url, path, CHECKSUM)
    assert not path.exists()
    server.breaks_after = None
    download(server.url, path, CHECKSUM)
    assert path.read_bytes() == CONTENT
    assert server.starts == [0, 100_000]


def test_server_without_ranges_starts_again(server, tmp_path):
    server.ranges = False
    (tmp_path / "weights.bin.part").write_bytes(b"something old")
    path = download(server.url, tmp_path / "weights.bin", CHECKSUM)
    assert path.read_bytes() == CONTENT


def test_complete_part_is_used(server, tmp_path):
    (tmp_path / "weights.bin.part").write_bytes(CONTENT)
    path = download(server.url, tmp_path / "weights.bin", CHECKSUM)
    assert path.read_bytes() == CONTENT


def test_wrong_content_is_refused_and_thrown_away(server, tmp_path):
    with pytest.raises(UserError, match="is not the file that was published"):
        download(server.url, tmp_path / "weights.bin", "md5:" + "0" * 32)
    assert not list(tmp_path.iterdir())


def test_no_network_says_how_to_go_on_by_hand(server, tmp_path):
    server.shutdown()
    server.socket.close()
    with pytest.raises(UserError, match=r"could not download http.*--source"):
        download(server.url, tmp_path / "weights.bin", CHECKSUM)


def run(*arguments):
    convert_weights.convert(convert_weights.parse_arguments(list(map(str, arguments))))


@pytest.fixture(scope="module")
def vgg19_file(tmp_path_factory):
    scheme = SCHEMES["vgg19"][1]
    weights = {}
    for name, shape in trunk_shapes("vgg19", "").items():
        shape = (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape
        weights[scheme.rename(name)] = np.ones(shape, np.float32)
    path = tmp_path_factory.mktemp("vgg19") / "vgg19.safetensors"
    safetensors.numpy.save_file(weights, path)
    return path


def test_command_converts_a_file_and_prints_its_provenance(
    vgg19_file, tmp_path, capsys
):
    out = tmp_path / "trunk.safetensors"
    run("--arch=vgg19", f"--source={vgg19_file}", f"--out={out}")
    printed = capsys.readouterr().out
    assert f"wrote {out}" in printed
    assert "architecture: vgg19" in printed
    assert len(pretrained.load_trunk(out, "vgg19", "")) == 32


def test_command_downloads_and_converts(
    server, vgg19_file, tmp_path, monkeypatch, capsys
):
    server.content = vgg19_file.read_bytes()
    checksum = "sha256:" + hashlib.sha256(server.content).hexdigest()[:8]
    url = server.url.replace("weights.bin", "published.safetensors")
    published = Published("vgg19", url, checksum)
    monkeypatch.setitem(pretrained.PUBLISHED, "vgg19", published)
    out = tmp_path / "trunk.safetensors"
    run("--download=vgg19", f"--out={out}")
    assert f"published_at: {url}" in capsys.readouterr().out
    assert out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source=w.h5", "--out=w.safetensors"], "--source needs --arch"),
        (["--source=w.h5", "--arch=vgg16", "--out=w.npz"], "must end in .safetensors"),
        (["--download=vgg16", "--arch=vgg19", "--out=w.safetensors"], "leave --arch"),
        (["--source=no.h5", "--arch=vgg16", "--out=w.safetensors"], "no weight file"),
        (
            ["--source=w.safetensors", "--arch=vgg16", "--out=w.safetensors"],
            "source itself",
        ),
    ],
)
def test_wrong_use_is_one_clear_error(arguments, message):
    with pytest.raises(UserError, match=re.escape(message)):
        run(*arguments)
