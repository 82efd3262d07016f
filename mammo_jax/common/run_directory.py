"""Directory of a run: one run, one configuration, one process at a time."""

import contextlib
import fcntl
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_collections

from mammo_jax.common.errors import UserError
from mammo_jax.common.files import replace_file

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.json"
# A folder of data has it if the images are synthetic: their settings.
PHANTOM_FILE = "phantom.json"
# A folder of raw files has it if they are synthetic, and what is packaged from them.
PHANTOM_NOTE = "phantom_images.json"
_LOCK_FILE = ".lock"
# Files that a run leaves before its work begins; a mended command may replace them.
_BEFORE_WORK = {
    _LOCK_FILE,
    *(f"{name}{end}" for name in (CONFIG_FILE, "model.json") for end in ("", ".part")),
}
# Fields that may change when a run goes on: two look into it, the devices change the
# roundings alone, readers and the times of checkpoints, in earlier versions counted in
# steps, nothing.
_FREE = (
    *("debug_nans", "profile", "devices", "threads", "workers"),
    *("checkpoint_minutes", "checkpoint_every_steps"),
)
# Levels of a JSON file; libraries would end in a deeper one.
_DEEPEST = 20
# Values of fields that earlier versions did not have; a newer field that is not here
# was off.
_EARLIER = {"stride": 32, "test_share": 0.2}


@contextlib.contextmanager
def claim(workdir: Path, config: ml_collections.ConfigDict) -> Iterator[None]:
    """Takes hold of `workdir` for one run of `config`.

    A new directory gets the configuration as `config.json`. One that holds an
    earlier run is taken only when its configuration is the same, so that
    nothing of another run is overwritten.

    Raises:
      UserError: the directory cannot be written, is in use, holds another
        configuration or something that is no run.
    """
    if "[" in str(workdir.absolute()):
        raise UserError(
            f"{workdir}: the library that writes checkpoints takes '[' in a path for a "
            "pattern; choose another with --workdir=DIR"
        )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = open(workdir / _LOCK_FILE, "a", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise UserError(
            f"cannot write to the run's directory {workdir}: {error.strerror}; "
            "choose another with --workdir=DIR"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"another run is using {workdir}; wait for it, or choose another "
                "with --workdir=DIR"
            ) from error
        _match_config(workdir, config)
        yield


def _match_config(workdir: Path, config: ml_collections.ConfigDict) -> None:
    path = workdir / CONFIG_FILE
    wanted = as_json(config)
    work = _work(workdir)
    if not work:
        write_json(path, wanted)  # Nothing has been done here yet.
        return
    if not path.exists():
        stranger = min(work)
        raise UserError(
            f"{workdir} is not empty and holds no run ({stranger} is there); choose "
            "another with --workdir=DIR"
        )
    different = list(differences(read_json(path), wanted))
    if different:
        raise UserError(
            f"{workdir} holds a run with another configuration: "
            f"{'; '.join(different[:5])}; choose another with --workdir=DIR, or go "
            f"on with its own by --config=rerun:{workdir}"
        )


def has_begun(workdir: Path) -> bool:
    """Tells whether a run has begun its work there, and its configuration is fixed."""
    return (workdir / CONFIG_FILE).exists() and bool(_work(workdir))


def _work(workdir: Path) -> set[str]:
    """Returns the names of the files that a run's work leaves."""
    files = {entry.name for entry in workdir.rglob("*") if entry.is_file()}
    return files - _BEFORE_WORK


def as_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the configuration as JSON has it, in the order in which it was written.

    Tuples become lists, and references the values that they refer to.
    """
    fields: dict[str, Any] = json.loads(config.to_json_best_effort())
    return fields


def differences(there: Any, wanted: Any, name: str = "config") -> Iterator[str]:
    """Says in which fields two configurations, as JSON has them, differ."""
    if isinstance(there, Mapping) and isinstance(wanted, Mapping):
        free = {*_FREE}
        if (wanted.get("model") or {}).get("batch_norm_per_device"):
            # Their number says which images are normalised together.
            free -= {"devices"}
        for key in sorted({*there, *wanted} - free):
            before = there.get(key, _EARLIER.get(key))
            yield from differences(before, wanted.get(key), f"{name}.{key}")
        if name.endswith(".stages") and [*there] != [*wanted] and {*there} == {*wanted}:
            yield f"{name} are in the order {[*there]} there and {[*wanted]} here"
    # A field that is off was off before there was one.
    elif there != wanted and (wanted or there is not None):
        yield f"{name} is {there!r} there and {wanted!r} here"


def holds_phantoms(data_dir: str, dataset: str) -> bool:
    """Tells whether images of a data set, or its folder, are noted as phantoms."""
    folder = Path(data_dir).expanduser()
    notes = (folder / dataset).glob(f"*/{PHANTOM_NOTE}")
    return (folder / PHANTOM_FILE).is_file() or any(notes)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
      UserError: the file is missing or damaged, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict) or _is_deeper(value, _DEEPEST):
        raise UserError(f"{path} is damaged: it holds no JSON object, or a deep one")
    return value


def _is_deeper(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        value = [*value.values()]
    if not isinstance(value, list):
        return False
    return levels == 0 or any(_is_deeper(part, levels - 1) for part in value)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON file, whole or not at all, in the order of the value's keys."""
    text = json.dumps(value, indent=2) + "\n"
    with replace_file(path) as partial:
        partial.write_text(text, "utf-8")
