"""A hub on 127.0.0.1, as far as huggingface_hub asks one for a model."""

import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import constants

_ASKED = re.compile(
    r"/api/models/(?P<of>\w+/[\w.-]+)(/revision/(?P<revision>[\w.-]+))?(\?.*)?"
    r"|/(?P<repository>\w+/[\w.-]+)/resolve/(?P<commit>\w+)/(?P<file>[\w.-]+)"
)


class FakeHub(http.server.ThreadingHTTPServer):
    """Repositories of a hub, and the requests that it got.

    Attributes:
      folders: the files of each repository.
      commits: the commit of each repository.
      asked: method and path of every request.
      agents: what clients say of themselves.
      ranges: what clients asked for of a file, where that was a part.
      breaks_after: bytes after which every file breaks off; None: never.
      sizes: sizes that are listed in the place of the true ones.
      answer: what it says to every question, where it is not empty.
      digest: the digest that is listed in the place of the weights' own.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.folders: dict[str, Path] = {}
        self.commits: dict[str, str] = {}
        self.asked: list[str] = []
        self.agents: set[str] = set()
        self.ranges: list[str] = []
        self.breaks_after: int | None = None
        self.sizes: dict[str, int] = {}
        self.answer, self.digest = b"", ""

    def add(self, repository: str, folder: Path, commit: str = "a" * 40) -> None:
        """Puts a folder's files into a repository, as its newest commit."""
        self.folders[repository], self.commits[repository] = folder, commit

    def handle_error(self, *_):
        """Keeps the test's output quiet where a client has gone."""


@contextlib.contextmanager
def serve(monkeypatch, cache: Path) -> Iterator[FakeHub]:
    """Serves as the hub of this process, whose cache is `cache`."""
    with FakeHub() as hub:
        for name, value in {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": (
                hub.url + "/{repo_id}/resolve/{revision}/{filename}"
            ),
            "HF_HUB_CACHE": str(cache),
            "HF_HUB_DISABLE_TELEMETRY": True,
            "HF_HUB_DISABLE_XET": True,
        }.items():
            monkeypatch.setattr(constants, name, value)
        thread = threading.Thread(target=hub.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FakeHub

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub = self.server
        hub.asked.append(f"{self.command} {self.path}")
        hub.agents.add(self.headers.get("User-Agent", ""))
        asked = _ASKED.fullmatch(self.path)
        repository = asked and (asked["of"] or asked["repository"])
        if hub.answer:
            self._send(200, {"Content-Type": "text/html"}, hub.answer)
            return
        if repository not in hub.folders:
            self._send(404, {"X-Error-Code": "RepoNotFound"})
            return
        folder, commit = hub.folders[repository], hub.commits[repository]
        wanted = asked["revision"] or asked["commit"]
        if wanted not in (None, "main", commit):
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
        elif not asked["repository"]:
            files = [self._entry(path) for path in sorted(folder.glob("*.*"))]
            siblings = [{"rfilename": entry["path"], **entry} for entry in files]
            said = {"id": repository, "sha": commit, "siblings": siblings}
            self._send_json(said)
        else:
            self._send_file(folder / asked["file"], commit)

    def _entry(self, path: Path) -> dict[str, object]:
        digests = self._digests(path)
        size = self.server.sizes.get(path.name, path.stat().st_size)
        entry = {"type": "file", "path": path.name, "size": size, "oid": digests["git"]}
        if path.suffix == ".safetensors":
            digest = digests["lfs"]
            stored = {"oid": digest, "sha256": digest, "size": size, "pointerSize": 130}
            entry |= {"lfs": stored, "xetHash": "0" * 64}
        return entry

    def _digests(self, path: Path) -> dict[str, str]:
        content = path.read_bytes()
        blob = b"blob %d\0" % len(content) + content
        return {
            "git": hashlib.sha1(blob).hexdigest(),
            "lfs": self.server.digest or hashlib.sha256(content).hexdigest(),
        }

    def _send_file(self, path: Path, commit: str) -> None:
        if not path.is_file():
            self._send(404, {"X-Error-Code": "EntryNotFound"})
            return
        kind = "lfs" if path.suffix == ".safetensors" else "git"
        headers = {"ETag": f'"{self._digests(path)[kind]}"', "X-Repo-Commit": commit}
        content, code = path.read_bytes(), 200
        if asked := self.headers.get("Range", ""):
            self.server.ranges.append(asked)
            start = asked.removeprefix("bytes=").rstrip("-")
            headers["Content-Range"] = (
                f"bytes {start}-{len(content) - 1}/{len(content)}"
            )
            content, code = content[int(start) :], 206
        self._send(code, headers, content, self.server.breaks_after)

    def _send_json(self, value: object) -> None:
        content = json.dumps(value).encode()
        self._send(200, {"Content-Type": "application/json"}, content)

    def _send(
        self,
        code: int,
        headers: dict[str, str],
        content: bytes = b"",
        breaks_after: int | None = None,
    ) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[:breaks_after])

    def log_message(self, *_):
        """Keeps the test's output quiet."""
