import contextlib
import functools
import hashlib
import http.server
import importlib.util
import re
import socket
import threading

import numpy as np
import pytest
import safetensors.numpy
from library_weights import library_weights, write_legacy_keras

from mammo_jax.common.errors import UserError
from mammo_jax.weights import pretrained
from mammo_jax.weights.download import download
from mammo_jax.weights.pretrained import trunk_shapes
from mammo_jax.weights.published import PUBLISHED
from mammo_jax.weights.weight_names import SCHEMES
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
        if start:
            size = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
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


def test_another_file_in_the_way_is_named(server, tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old")
    with pytest.raises(UserError, match=f"remove {path}"):
        download(server.url, path, CHECKSUM)
    assert path.read_bytes() == b"old"


@contextlib.contextmanager
def replies(*contents):
    """A server that answers each connection with the next of `contents`."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer():
        for content in contents:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(content)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/weights.bin"
    thread.join()
    listener.close()


@pytest.mark.parametrize(
    "reply",
    [
        b"hello\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 5-9/10\r\n\r\n56789",
    ],
    ids=["status", "empty", "chunk", "length", "headers", "404", "unasked range"],
)
def test_an_answer_that_is_no_file_is_one_clear_error(reply, tmp_path):
    with replies(reply) as url, pytest.raises(UserError, match="could not download"):
        download(url, tmp_path / "weights.bin", CHECKSUM)


@pytest.mark.parametrize("answered", ["bytes 0-9/10", "bytes 7-9/10", "words", ""])
def test_a_part_that_does_not_go_on_where_asked_is_not_appended(answered, tmp_path):
    (tmp_path / "weights.bin.part").write_bytes(b"01234")
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789"
    part = (
        f"HTTP/1.1 206 Partial\r\nContent-Range: {answered}\r\n"
        "Content-Length: 3\r\n\r\n789"
    )
    checksum = "md5:" + hashlib.md5(b"0123456789").hexdigest()
    with replies(part.encode(), whole) as url:
        path = download(url, tmp_path / "weights.bin", checksum)
    assert path.read_bytes() == b"0123456789"


def test_no_network_says_how_to_go_on_by_hand(server, tmp_path):
    server.shutdown()
    server.socket.close()
    with pytest.raises(UserError, match=r"could not download http.*--source"):
        download(server.url, tmp_path / "weights.bin", CHECKSUM)


def run(*arguments):
    convert_weights.convert(convert_weights.parse_arguments(list(map(str, arguments))))


@pytest.fixture(scope="module")
def vgg19_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg19") / "vgg19.safetensors"
    safetensors.numpy.save_file(library_weights("vgg19", SCHEMES["vgg19"][1]), path)
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


# name: the schemes of the files that are published under it.
PUBLISHED_SCHEMES = {
    "resnet50": SCHEMES["resnet50"][0],
    "resnet50-keras": SCHEMES["resnet50"][1],
    "resnet50-torchvision": SCHEMES["resnet50"][2],
    "resnet50-torchvision-v2": SCHEMES["resnet50"][2],
    "vgg16": SCHEMES["vgg16"][0],
    "vgg16-torchvision": SCHEMES["vgg16"][1],
    "vgg19": SCHEMES["vgg19"][0],
    "vgg19-torchvision": SCHEMES["vgg19"][1],
}


@pytest.fixture
def narrow(monkeypatch):
    """The same names with few channels: files of kilobytes."""
    monkeypatch.setattr(
        pretrained, "trunk_shapes", functools.partial(trunk_shapes, width=1 / 16)
    )


def publish(server, name, monkeypatch, folder):
    """Serves made-up weights as the published file `name`; returns its address."""
    published = PUBLISHED[name]
    file = folder / "published" / published.file_name
    file.parent.mkdir()
    weights = library_weights(
        published.architecture, PUBLISHED_SCHEMES[name], width=1 / 16
    )
    if file.suffix == ".pth":
        torch = pytest.importorskip("torch", reason="run by `make test-peers`")
        torch.save({name: torch.tensor(v) for name, v in weights.items()}, file)
    else:
        write_legacy_keras(weights, file)
    server.content = file.read_bytes()
    checksum = "sha256:" + hashlib.sha256(server.content).hexdigest()[:8]
    url = server.url.replace("weights.bin", published.file_name)
    monkeypatch.setitem(PUBLISHED, name, published._replace(url=url, checksum=checksum))
    return url


@pytest.mark.parametrize("name", PUBLISHED)
def test_command_downloads_and_converts_every_published_file(
    name, server, narrow, tmp_path, monkeypatch, capsys
):
    url = publish(server, name, monkeypatch, tmp_path)
    out = tmp_path / "trunk.safetensors"
    run(f"--download={name}", f"--out={out}")
    printed = capsys.readouterr().out
    assert f"published_at: {url}\n" in printed
    wiring = PUBLISHED[name].wiring
    assert wiring == PUBLISHED_SCHEMES[name].wiring
    assert f"  architecture: {name.partition('-')[0]}\n" in printed
    assert (f"  wiring: {wiring}\n" in printed) == bool(wiring)
    assert out.exists()


def test_files_published_under_one_name_do_not_meet_on_the_disk(
    server, narrow, tmp_path, monkeypatch
):
    for name in ("resnet50", "resnet50-keras"):
        publish(server, name, monkeypatch, tmp_path)
        run(f"--download={name}", f"--out={tmp_path / name}.safetensors")
        (tmp_path / "published").rename(tmp_path / f"published of {name}")
    again = PUBLISHED["resnet50-keras"].file_name
    source = tmp_path / "resnet50-keras" / again
    run("--arch=resnet50", f"--source={source}", f"--out={tmp_path / 'b'}.safetensors")


def test_a_truncated_published_file_is_to_be_downloaded_again(tmp_path):
    file = tmp_path / PUBLISHED["vgg16"].file_name
    file.write_bytes(b"\x89HDF\r\n\x1a\n, and no more")
    with pytest.raises(UserError, match="download it again"):
        run("--arch=vgg16", f"--source={file}", f"--out={tmp_path / 'o'}.safetensors")


def test_nothing_is_fetched_that_cannot_be_read_here(tmp_path):
    if importlib.util.find_spec("torch"):
        pytest.skip("PyTorch is installed")
    with pytest.raises(UserError, match="pip install torch"):
        run("--download=vgg16-torchvision", f"--out={tmp_path / 'w.safetensors'}")
    assert not list(tmp_path.iterdir())


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
