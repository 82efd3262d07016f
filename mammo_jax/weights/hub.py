"""Models on a hub: `hf://OWNER/NAME[@REVISION]`, kept in huggingface_hub's cache.

A revision is a branch, a tag or a commit; without one it is the main branch. Nothing
but safetensors, JSON and text is fetched. For a commit that is in the cache no network
is asked. Without JAX, as `mammo_jax.weights.model_description`.
"""

import contextlib
import functools
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from mammo_jax.common.errors import UserError, first_line
from mammo_jax.weights.published import verify_checksum

_log = logging.getLogger(__name__)
_SCHEME = "hf://"
NAME = re.compile(r"hf://(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w.-]*))?", re.ASCII)
_COMMIT = re.compile("[0-9a-f]{40}")
_SHA256 = re.compile("[0-9a-f]{64}")
_ETAG = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
_MIB = 1 << 20
_WEIGHTS = "model.safetensors"
# Bytes that each file of a model may have.
MODEL_FILES = {
    "config.json": _MIB,
    "model.json": _MIB,
    "metrics.json": 16 * _MIB,
    _WEIGHTS: 4096 * _MIB,
}
# The same with what share-model adds, and check-model looks at.
SHARED_FILES = {**MODEL_FILES, "README.md": _MIB, "expected_scores.csv": _MIB}
# It would tell the hub more than it asks for, and fetch from a second server, whose
# connections are not taken up again.
_SETTINGS = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
_TIMEOUT_SECONDS = 30


def is_on_hub(name: str | Path) -> bool:
    """Tells whether a model's name is of a hub; else it is a directory's."""
    return str(name).startswith(_SCHEME)


def pin(name: str, kept: str = "") -> str:
    """Returns `hf://OWNER/NAME@COMMIT` of a name on a hub, and other names unchanged.

    Where the hub cannot be reached, the commit is the cache's, and a line says so. What
    an earlier call returned, `kept`, stays where it is of the same model and no other
    commit is named; then no network is asked.

    Raises:
      UserError: no such name, model or revision, or no network and nothing cached.
    """
    if not is_on_hub(name):
        return name
    repository, revision = _split(name)
    model, _, commit = kept.partition("@")
    is_same = model == f"{_SCHEME}{repository}" and _COMMIT.fullmatch(commit)
    if is_same and not _COMMIT.fullmatch(revision or ""):
        _log.info("going on with %s, as begun", kept)
        return kept
    with _explained(name) as (_, api):
        commit = api.resolve_revision(repository, revision=revision).resolved
    if not _COMMIT.fullmatch(commit):
        raise UserError(f"{name}: the hub calls its commit {commit!r:.60}")
    return f"{_SCHEME}{repository}@{commit}"


def find_directory(name: str | Path, files: Mapping[str, int] = MODEL_FILES) -> Path:
    """Returns the directory of a model; one on a hub is fetched first.

    Args:
      name: the directory, or the name on a hub.
      files: what is fetched, and the bytes that each file may have.

    Raises:
      UserError: as `pin`; or the hub's is no model of this program's, has a file that
        is too large, or breaks off. The same call keeps the files that are there.
    """
    if not is_on_hub(name):
        return Path(name).expanduser()
    return _fetch(str(name), files)


def fetch_weights(name: str) -> Path:
    """Returns the weight file of anyone's repository on a hub; raises as above."""
    return _fetch(name, {_WEIGHTS: MODEL_FILES[_WEIGHTS]}) / _WEIGHTS


def _fetch(name: str, limits: Mapping[str, int]) -> Path:
    name = pin(name)
    repository, commit = _split(name)
    with _explained(name) as (library, api):
        cached = [
            Path(path)
            for file in limits
            if isinstance(
                path := library.try_to_load_from_cache(
                    repository, file, revision=commit
                ),
                str,
            )
        ]
        # Another program may have fetched a part of it, or not looked at it.
        if len(cached) == len(limits):
            with contextlib.suppress(UserError):  # What is damaged is fetched again.
                for path in cached:
                    # The cache calls a large file by the digest that the hub listed.
                    blob = path.resolve().name
                    _verify(path, blob if _SHA256.fullmatch(blob) else None)
                return cached[0].parent
        # Before anything is fetched; without a network this one fails at once.
        info = api.repo_info(repository, revision=commit, files_metadata=True)
        listed = {entry.rfilename: entry for entry in info.siblings or ()}
        sizes = {file: entry.size or 0 for file, entry in listed.items()}
        _check(name, sizes, limits)
        with _checked_answers(library, name, commit):
            # One by one: threads of the library's would not end at Ctrl-C.
            paths = [
                library.hf_hub_download(repository, file, revision=commit)
                for file in limits
            ]
        found = Path(paths[0]).parent
    for file in limits:
        stored = listed[file].lfs  # Small files are in git itself.
        _verify(found / file, stored and stored.sha256)
    return found


@contextlib.contextmanager
def _checked_answers(library: Any, name: str, commit: str | None) -> Iterator[None]:
    """Refuses a server's ETag of a file that is no digest, or of another commit.

    The library makes a path of the ETag.
    """
    ask = library.file_download.get_hf_file_metadata

    def asked(*arguments: Any, **options: Any) -> Any:
        found = ask(*arguments, **options)
        if not _ETAG.fullmatch(found.etag or "") or found.commit_hash != commit:
            raise UserError(
                f"{name}: the hub answers with a file of another commit, or without a "
                "digest; it is not fetched. Is HF_ENDPOINT the hub's address?"
            )
        return found

    with mock.patch.object(library.file_download, "get_hf_file_metadata", asked):
        yield


def _check(name: str, sizes: Mapping[str, int], limits: Mapping[str, int]) -> None:
    if missing := [file for file in limits if file not in sizes]:
        others = sorted(sizes.keys() - limits.keys())
        raise UserError(
            f"{name} has no {', '.join(missing)}, which this command reads; it has "
            f"{', '.join(others)[:200] or 'nothing else'}"
        )
    for file, limit in limits.items():
        if sizes.get(file, 0) > limit:
            raise UserError(
                f"{name}: {file} has {sizes[file]:,} bytes, and no model's has more "
                f"than {limit:,}; it is not fetched"
            )


def _verify(path: Path, sha256: str | None) -> None:
    """Refuses, and removes, a file that has another digest, where that is known."""
    try:
        if sha256 is not None:
            verify_checksum(path, f"sha256:{sha256}")
    except UserError:
        with contextlib.suppress(OSError):  # The first error is the one to tell.
            blob = path.resolve()
            if blob.parent == (path.parents[2] / "blobs").resolve():
                blob.unlink()
            path.unlink(missing_ok=True)
        raise


def _split(name: str) -> tuple[str, str | None]:
    match = NAME.fullmatch(name)
    if not match or ".." in name or "--" in name:
        raise UserError(
            f"{name} names no model on a hub; give hf://OWNER/NAME or "
            "hf://OWNER/NAME@REVISION, with a branch, a tag or a commit"
        )
    return match[1], match[2]


@contextlib.contextmanager
def _explained(name: str) -> Iterator[tuple[Any, Any]]:
    """Lends the library and a way to ask the hub; makes a line of their errors."""
    os.environ.update({**_SETTINGS, **os.environ})
    try:
        import huggingface_hub as library
        from huggingface_hub import constants, errors
    except ImportError as error:
        raise UserError(
            f"{name} needs huggingface_hub; install it with: uv pip install "
            "--constraint requirements.lock --editable '.[hub]'"
        ) from error
    # Questions, other than downloads, would wait for ever.
    library.get_session().timeout = _TIMEOUT_SECONDS
    api = library.HfApi()
    vars(api)["repo_info"] = functools.partial(api.repo_info, timeout=_TIMEOUT_SECONDS)
    place = constants.ENDPOINT
    # The first that fits.
    reasons: dict[type[Exception], str] = {
        errors.GatedRepoError: f"its owner gives access on its page at {place}; "
        "then log in: hf auth login",
        errors.RepositoryNotFoundError: f"{place} has no such model, or it is "
        "private; check the name, or log in: hf auth login",
        errors.RevisionNotFoundError: "the model has no such revision; give a "
        "branch, a tag or a commit of it",
    }
    try:
        yield library, api
    except UserError:
        raise
    except Exception as error:  # A strange answer ends in an error of any kind.
        why = first_line(error.__cause__ or error)
        fitting = (text for kind, text in reasons.items() if isinstance(error, kind))
        unreachable = (
            f"it could not be fetched from {place} and is not in the cache ({why}); "
            "give the same command again, or copy the model's directory from another "
            "machine and name that"
        )
        raise UserError(f"{name}: {next(fitting, unreachable)}") from error
