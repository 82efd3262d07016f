import json
import logging
import shutil
import socket
import sys
import time
import types

import pytest

pytest.importorskip("huggingface_hub", reason="of the extra `hub`")

import fake_hub
from huggingface_hub import constants, file_download
from predicting import make_breast
from tiny_runs import write_run

import mammo_jax as mj
from mammo_jax.common.errors import UserError
from mammo_jax.prediction.sharing import SHARED
from mammo_jax.weights import hub

COMMIT, NAME = "a" * 40, "hf://clinic/model"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("hub") / "run"
    write_run(directory)
    (directory / "pytorch_model.bin").write_bytes(b"code that runs when it is read")
    return directory


@pytest.fixture
def server(run, monkeypatch, tmp_path):
    with fake_hub.serve(monkeypatch, tmp_path / "cache") as server:
        server.add("clinic/model", run)
        yield server


@pytest.fixture
def pauses(monkeypatch):
    """Small pieces of files, and no pauses between tries."""
    instant = types.SimpleNamespace(sleep=lambda _: None, time=time.time)
    monkeypatch.setattr(file_download, "time", instant)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    return instant


def stop(_):
    raise KeyboardInterrupt


def written(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_model_on_a_hub_scores_as_its_directory(server, run):
    found, there = mj.load(NAME), mj.load(run)
    assert found.description == there.description
    picture = make_breast(0)
    assert found(picture, bits=16) == there(picture, bits=16) != 0.5


def test_a_name_gets_its_commit_and_other_names_stay(server):
    assert hub.pin(NAME) == f"{NAME}@{COMMIT}"
    assert hub.pin(f"{NAME}@main") == f"{NAME}@{COMMIT}"
    assert hub.pin("~/runs/demo") == "~/runs/demo"
    assert hub.find_directory("runs/demo").name == "demo"


def test_the_commit_of_an_earlier_call_stays_and_asks_no_network(server):
    kept = f"{NAME}@{'b' * 40}"
    for name in (NAME, f"{NAME}@main"):
        assert hub.pin(name, kept) == kept
    assert not server.asked
    # Another commit, another model, and what is no commit do not stay.
    assert hub.pin(f"{NAME}@{COMMIT}", kept) == f"{NAME}@{COMMIT}"
    for other in ("", f"{NAME}@main", NAME, f"hf://clinic/other@{'b' * 40}", "a/b@c"):
        assert hub.pin(NAME, other) == f"{NAME}@{COMMIT}"


def test_nothing_but_safetensors_json_and_text_is_fetched(server):
    found = {path.name for path in hub.find_directory(NAME).iterdir()}
    assert found == {*hub.MODEL_FILES}
    assert not any("pytorch_model" in asked for asked in server.asked)


def test_the_hub_is_told_nothing_but_what_is_asked_for(server):
    hub.find_directory(NAME)
    paths = {asked.split()[1].partition("?")[0] for asked in server.asked}
    files = {f"/clinic/model/resolve/{COMMIT}/{file}" for file in hub.MODEL_FILES}
    api = "/api/models/clinic/model"
    assert paths == files | {api, f"{api}/revision/{COMMIT}"}
    (agent,) = server.agents
    assert agent.startswith("unknown/None; hf_hub/")
    assert "jax" not in agent
    assert "agent" not in agent


def test_a_commit_in_the_cache_asks_no_network(server):
    first = hub.find_directory(NAME)
    server.asked.clear()
    assert hub.find_directory(f"{NAME}@{COMMIT}") == first
    assert not server.asked


def test_without_a_network_a_branch_is_that_of_the_cache_and_is_said(
    server, monkeypatch, caplog
):
    first = hub.find_directory(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    logging.getLogger("huggingface_hub").addHandler(caplog.handler)
    assert hub.find_directory(NAME) == first
    logging.getLogger("huggingface_hub").removeHandler(caplog.handler)
    assert "Could not reach the Hub" in caplog.text
    assert "Using cached commit" in caplog.text


def test_a_newer_commit_is_another_model(server, run, tmp_path):
    first = hub.find_directory(NAME)
    write_run(tmp_path / "newer", seed=1)
    server.add("clinic/model", tmp_path / "newer", "b" * 40)
    assert hub.find_directory(NAME) != first
    assert hub.find_directory(f"{NAME}@{COMMIT}") == first


@pytest.mark.parametrize("offline", [False, True])
def test_no_network_and_no_cache_is_one_line(server, monkeypatch, offline, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    for name in (NAME, f"{NAME}@{COMMIT}"):
        with pytest.raises(UserError, match="could not be fetched from http") as error:
            hub.find_directory(name)
        assert "\n" not in str(error.value)
    assert not written(tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{NAME}@v9", "has no such revision"),
        (f"{NAME}@{'c' * 40}", "has no such revision"),
        ("hf://clinic/other", "has no such model, or it is private"),
        ("hf://clinic", "names no model on a hub"),
        ("hf://clinic/..", "names no model on a hub"),
        ("hf://clinic/a--b", "names no model on a hub"),
        ("hf://clinic/model/sub", "names no model on a hub"),
        ("hf://../../etc/passwd", "names no model on a hub"),
        (f"{NAME}@../x", "names no model on a hub"),
        (f"{NAME}@", "names no model on a hub"),
    ],
)
def test_what_is_not_there_is_one_line(server, name, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        hub.find_directory(name)
    assert "\n" not in str(error.value)
    assert not written(tmp_path / "cache")


@pytest.mark.parametrize(
    "answer",
    [b"<html>Log in to the network</html>", b"[]", b"{}", b'{"id": 1, "sha": 2}', b"0"],
)
def test_answers_of_no_hub_are_one_line(server, answer, tmp_path):
    server.answer = answer
    for name in (NAME, f"{NAME}@{COMMIT}"):
        with pytest.raises(
            UserError, match=r"could not be fetched|has no config"
        ) as error:
            hub.find_directory(name)
        assert "\n" not in str(error.value)
    assert not any(path.name in hub.MODEL_FILES for path in written(tmp_path))


def test_a_hub_that_is_no_address_is_one_line(server, monkeypatch):
    for address in ("http://[", "clinic", "http://127.0.0.1:99999"):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        with pytest.raises(UserError, match="could not be fetched from"):
            hub.find_directory(NAME)


def test_a_hub_that_is_silent_is_not_waited_for(server, monkeypatch, tmp_path):
    first = hub.find_directory(NAME)
    monkeypatch.setattr(hub, "_TIMEOUT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        assert hub.find_directory(NAME) == first
        for name in (f"{NAME}@v2", f"{NAME}@{'c' * 40}"):
            with pytest.raises(UserError, match=r"could not be fetched .*timed out"):
                hub.find_directory(name)


def test_without_the_library_its_installation_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"needs huggingface_hub; .*'\.\[hub\]'"):
        hub.find_directory(NAME)
    assert hub.pin("runs/demo") == "runs/demo"


def test_a_folder_of_pickles_is_refused_and_not_fetched(server, tmp_path):
    (tmp_path / "pickles").mkdir()
    (tmp_path / "pickles" / "config.json").write_text("{}")
    (tmp_path / "pickles" / "pytorch_model.bin").write_bytes(b"code")
    server.add("clinic/pickles", tmp_path / "pickles")
    message = r"has no model.json, .*it has pytorch_model.bin$"
    with pytest.raises(UserError, match=message):
        hub.find_directory("hf://clinic/pickles")
    assert not any("resolve" in asked for asked in server.asked)


def test_a_file_that_is_too_large_is_not_fetched(server):
    server.sizes["config.json"] = 1 << 40
    with pytest.raises(UserError, match=r"config.json has 1,099,511,627,776 bytes"):
        hub.find_directory(NAME)
    assert not any("resolve" in asked for asked in server.asked)


def test_weights_of_another_digest_are_refused_and_not_kept(server, tmp_path):
    server.digest = "0" * 64
    for _ in range(2):
        with pytest.raises(UserError, match="is not the file that was published"):
            hub.find_directory(NAME)
    assert not [path for path in written(tmp_path) if path.stat().st_size > 100_000]


def test_a_tag_that_is_a_path_is_not_followed(server, tmp_path):
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    server.digest = f"../../../../../../../../../..{victim}"
    with pytest.raises(UserError, match="without a digest; it is not"):
        hub.find_directory(NAME)
    assert victim.read_text() == "mine"


def test_weights_that_were_fetched_and_not_looked_at_are_not_kept(
    server, run, monkeypatch
):
    server.digest = "0" * 64
    with monkeypatch.context() as patch:
        patch.setattr(hub, "_verify", lambda *_: stop(None))
        with pytest.raises(KeyboardInterrupt):
            hub.find_directory(NAME)
    with pytest.raises(UserError, match="is not the file that was published"):
        hub.find_directory(NAME)
    server.digest = ""
    found = hub.find_directory(NAME) / "model.safetensors"
    # One that is damaged later is fetched again.
    found.resolve().write_bytes(b"damaged")
    hub.find_directory(f"{NAME}@{COMMIT}")
    assert found.read_bytes() == (run / "model.safetensors").read_bytes()


def test_what_only_some_commands_read_is_fetched_when_it_is_asked_for(
    server, run, tmp_path
):
    assert {*hub.SHARED_FILES} == {*SHARED}
    hub.find_directory(NAME)
    with pytest.raises(
        UserError, match=r"has no README.md, expected_scores.csv, which"
    ):
        hub.find_directory(NAME, hub.SHARED_FILES)
    shared = shutil.copytree(run, tmp_path / "shared")
    for file in {*SHARED} - {*hub.MODEL_FILES}:
        (shared / file).write_text(file)
    server.add("clinic/shared", shared)
    name = hub.pin("hf://clinic/shared")
    assert len(list(hub.find_directory(name).iterdir())) == len(hub.MODEL_FILES)
    found = hub.find_directory(name, hub.SHARED_FILES)
    assert {path.name for path in found.iterdir()} == {*SHARED}


def test_a_fetch_that_breaks_off_goes_on_where_it_was(server, run, pauses):
    size = (run / "model.safetensors").stat().st_size
    server.breaks_after = 1000 * (size // 2000)
    found = hub.find_directory(NAME) / "model.safetensors"
    assert found.read_bytes() == (run / "model.safetensors").read_bytes()
    assert server.ranges[0] == f"bytes={server.breaks_after}-"


def test_after_a_stop_the_same_call_fetches_what_is_missing(server, run, pauses):
    pauses.sleep = stop
    server.breaks_after = 100_000  # only the weights are larger
    with pytest.raises(KeyboardInterrupt):
        hub.find_directory(NAME)
    server.breaks_after = None
    server.asked.clear()
    found = hub.find_directory(NAME) / "model.safetensors"
    assert found.read_bytes() == (run / "model.safetensors").read_bytes()
    assert not any(
        "incomplete" in path.name for path in found.resolve().parent.iterdir()
    )


def test_a_server_that_sends_nothing_is_one_line(server, pauses):
    server.breaks_after = 0
    with pytest.raises(UserError, match="give the same command again") as error:
        hub.find_directory(NAME)
    assert "\n" not in str(error.value)


def test_a_commit_that_is_none_is_refused(server, run, tmp_path):
    server.add("clinic/model", run, "../../../../etc")
    with pytest.raises(UserError, match="calls its commit"):
        hub.find_directory(NAME)
    assert not (tmp_path / "cache" / "models--clinic--model" / "snapshots").exists()


def test_another_programs_part_of_a_model_is_completed(server):
    import huggingface_hub

    huggingface_hub.hf_hub_download("clinic/model", "config.json", revision=COMMIT)
    assert len(list(hub.find_directory(NAME).iterdir())) == len(hub.MODEL_FILES)


def test_a_weight_file_is_found_in_anyones_repository(server, run):
    found = hub.fetch_weights(NAME)
    assert found.read_bytes() == (run / "model.safetensors").read_bytes()
    assert [path.name for path in found.parent.iterdir()] == ["model.safetensors"]
    # The rest of the model follows where it is asked for.
    assert len(list(hub.find_directory(NAME).iterdir())) == len(hub.MODEL_FILES)


def test_broken_json_is_an_error_of_its_file(server, run, tmp_path):
    write_run(tmp_path / "broken")
    (tmp_path / "broken" / "model.json").write_text(json.dumps([1]))
    server.add("clinic/broken", tmp_path / "broken")
    with pytest.raises(UserError, match=r"model\.json is damaged"):
        mj.load("hf://clinic/broken")
