"""Fetching a published weight file, checked before use."""

import contextlib
from pathlib import Path

from mammo_jax.common.errors import UserError
from mammo_jax.common.progress import progress
from mammo_jax.weights.published import Published, verify_checksum

_TIMEOUT_SECONDS = 30


def download(published: Published, path: Path) -> Path:
    """Downloads a published file to `path`, unless it is there already.

    Returns:
      `path`, whose content has the published checksum.

    Raises:
      UserError: the server cannot be reached or refuses, or what came is not the
        published file; the message says how to go on by hand. Nothing is left behind.
    """
    if path.is_file():
        try:
            verify_checksum(path, published.checksum)
        except UserError as error:
            raise UserError(f"{error}: remove {path} first") from error
        return path
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        _fetch(published, path)
        verify_checksum(path, published.checksum)
    except BaseException:
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # The first error is the one to tell.
            for folder in made:
                folder.rmdir()
        raise
    return path


def _fetch(published: Published, path: Path) -> None:
    import pooch  # Late: nothing but a download needs it and its HTTP client.

    try:
        # pooch sets the length later; without one, a bar of tqdm has no truth value.
        with progress(None, path.name, total=1, unit="B") as bar:
            pooch.retrieve(
                published.url,
                known_hash=None,  # torchvision publishes the first digits alone.
                fname=path.name,
                path=path.parent,
                downloader=pooch.HTTPDownloader(
                    progressbar=bar, timeout=_TIMEOUT_SECONDS
                ),
            )
    # Errors of the HTTP client are OSErrors; numbers that are none are ValueErrors.
    except (OSError, ValueError) as error:
        raise UserError(
            f"could not download {published.url}: {error or type(error).__name__}. "
            "Give the same command again, or fetch the file on another machine and "
            f"give --arch={published.architecture} --source=FILE in the place of "
            "--download"
        ) from error
