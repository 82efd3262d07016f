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
from mammo_jax.weights.pretrained import trunk_shapes
from mammo_jax.weights.published import PUBLISHED, Published, download
from mammo_jax.weights.weight_names import SCHEMES
from scripts import convert_weights

CONTENT = np.random.default_rng(0).bytes(300_000)
CHECKSUM = "md5:" + hashlib.md5(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves one file; can break off."""

    def do_GET(self):
        server = self.server
        server.requests += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(server.content)))
        self.end_headers()
        self.wfile.write(server.content[: server.breaks_after])

    def log_message(self, *_):
        """Keeps the test's output quiet."""


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.breaks_after, server.requests = CONTENT, None, 0
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_address[1]}/weights.bin"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def published_at(url, checksum=CHECKSUM):
    return Published("vgg16", "", url, checksum)


def test_download_fetches_checks_and_is_not_repeated(server, tmp_path):
    path = tmp_path / "sub" / "weights.bin"
    assert download(published_at(server.url), path) == path
    assert path.read_bytes() == CONTENT
    download(published_at(server.url), path)
    assert server.requests == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["weights.bin"]


def test_a_download_that_breaks_off_leaves_nothing_and_may_be_tried_again(
    server, tmp_path
):
    path = tmp_path / "a" / "b" / "weights.bin"
    server.breaks_after = 100_000
    with pytest.raises(UserError, match="Give the same command again"):
        download(published_at(server.url), path)
    assert not list(tmp_path.iterdir())
    server.breaks_after = None
    download(published_at(server.url), path)
    assert path.read_bytes() == CONTENT


def test_wrong_content_is_refused_and_thrown_away(server, tmp_path):
    wrong = published_at(server.url, "md5:" + "0" * 32)
    with pytest.raises(UserError, match="is not the file that was published"):
        download(wrong, tmp_path / "sub" / "weights.bin")
    assert not list(tmp_path.iterdir())


def test_folders_that_were_there_before_stay(server, tmp_path):
    (tmp_path / "old").mkdir()
    with pytest.raises(UserError):
        download(published_at(server.url, "md5:0"), tmp_path / "old" / "new" / "w.bin")
    assert [entry.name for entry in tmp_path.iterdir()] == ["old"]


def test_another_file_in_the_way_is_named(server, tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old")
    with pytest.raises(UserError, match=f"remove {path}"):
        download(published_at(server.url), path)
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
    ],
    ids=["status", "empty", "chunk", "length", "headers", "404"],
)
def test_an_answer_that_is_no_file_is_one_clear_error(reply, tmp_path):
    with replies(reply) as url, pytest.raises(UserError, match="could not download"):
        download(published_at(url), tmp_path / "weights.bin")


def test_no_network_says_how_to_go_on_by_hand(server, tmp_path):
    server.shutdown()
    server.socket.close()
    message = r"could not download http.*--arch=vgg16 --source=FILE"
    with pytest.raises(UserError, match=message):
        download(published_at(server.url), tmp_path / "weights.bin")


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
    "resnet50-timm": SCHEMES["resnet50"][2],
    "resnet50-torchvision": SCHEMES["resnet50"][2],
    "resnet50-torchvision-v2": SCHEMES["resnet50"][2],
    "vgg16": SCHEMES["vgg16"][0],
    "vgg16-timm": SCHEMES["vgg16"][1],
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
    elif file.suffix == ".safetensors":
        head = {"head.fc.weight": np.zeros((2, 2), np.float32)}
        safetensors.numpy.save_file(weights | head, file)
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


def test_a_file_called_as_all_on_the_hub_is_no_published_one():
    names = [published.file_name for published in PUBLISHED.values()]
    assert "model.safetensors" not in names
    assert PUBLISHED["vgg16-timm"].file_name == "vgg16.tv_in1k.safetensors"


def test_weights_of_a_repository_on_a_hub_are_converted(
    narrow, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("huggingface_hub", reason="of the extra `hub`")
    import fake_hub

    (tmp_path / "repository").mkdir()
    weights = library_weights("vgg19", SCHEMES["vgg19"][1], width=1 / 16)
    file = tmp_path / "repository" / "model.safetensors"
    safetensors.numpy.save_file(weights, file)
    out = tmp_path / "out.safetensors"
    with fake_hub.serve(monkeypatch, tmp_path / "cache") as hub:
        hub.add("timm/vgg19.tv_in1k", file.parent)
        run("--arch=vgg19", "--source=hf://timm/vgg19.tv_in1k", f"--out={out}")
    printed = capsys.readouterr().out
    assert f"published_at: hf://timm/vgg19.tv_in1k@{'a' * 40}\n" in printed
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert f"source_sha256: {digest}\n" in printed
    (kernel,) = (
        v
        for n, v in safetensors.numpy.load_file(out).items()
        if n == "trunk/block1/conv1/kernel"
    )
    assert np.array_equal(kernel, weights["features.0.weight"].transpose(2, 3, 1, 0))


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
