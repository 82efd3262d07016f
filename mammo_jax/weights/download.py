"""Fetches a published file: resumed where it stopped, checked before use."""

import http.client
import re
import urllib.error
import urllib.request
from pathlib import Path

from mammo_jax.common.errors import UserError
from mammo_jax.common.progress import progress_bar
from mammo_jax.weights.published import verify_checksum

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30


def download(url: str, path: Path, checksum: str) -> Path:
    """Downloads `url` to `path`, unless the right file is there already.

    What has arrived is kept in `path` + ".part", and a later call goes on there.

    Args:
      url: http or https.
      path: the file to write.
      checksum: as for `verify_checksum`.

    Returns:
      `path`, whose content has that checksum.

    Raises:
      UserError: the server cannot be reached or refuses, or what came is not the
        published file; the message says how to go on by hand.
    """
    if path.is_file():
        try:
            verify_checksum(path, checksum)
        except UserError as error:
            raise UserError(f"{error}: remove {path} first") from error
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    try:
        _fetch(url, partial)
    # URLError and time-outs are OSErrors; numbers that are none are ValueErrors.
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise UserError(
            f"could not download {url}: {reason}. Run the same command again to go on "
            f"where it stopped, or fetch the file on another machine and pass it "
            f"with --source"
        ) from error
    try:
        verify_checksum(partial, checksum)
    except UserError:
        partial.unlink()
        raise
    return partial.replace(path)


def _fetch(url: str, partial: Path) -> None:
    done = partial.stat().st_size if partial.exists() else 0
    headers = {"Range": f"bytes={done}-"} if done else {}
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left: the file is complete
            error.close()
            return
        raise
    if response.status == 206 and _first_byte(response) != done:
        response.close()
        if not done:
            raise OSError("the server sends a part that was not asked for")
        # Another part than the one that is missing: from the beginning, then.
        partial.unlink()
        return _fetch(url, partial)
    with response:
        if response.status != 206:  # the server starts at the beginning
            done = 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with (
            partial.open("ab" if done else "wb") as out,
            progress_bar(partial.stem, total=total, initial=done, unit="B") as bar,
        ):
            while chunk := response.read(_CHUNK_BYTES):
                out.write(chunk)
                bar.update(len(chunk))
    if total is not None and partial.stat().st_size < total:
        raise OSError(f"the connection ended after {partial.stat().st_size} bytes")


def _first_byte(response: http.client.HTTPResponse) -> int | None:
    """Where in the file a part starts; None if the response does not say."""
    content_range = response.headers.get("Content-Range", "")
    match = re.match(r"bytes (\d+)-", content_range)
    return int(match[1]) if match else None
