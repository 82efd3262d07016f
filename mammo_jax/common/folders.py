"""Folders beside the package in a checkout, and inside it in a wheel."""

import ast
from pathlib import Path

from mammo_jax.common.errors import UserError

_PACKAGE = Path(__file__).parents[1]


def shipped(name: str) -> Path:
    """Returns the folder `configs` or `scripts` that belongs to this package."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def with_config_file(flag: str) -> str:
    """Returns `--config=NAME:PRESET` with the path of the shipped file for NAME.

    Other flags, and paths of files that are there, come back as they are.

    Raises:
      UserError: there is no such file.
    """
    option, _, value = flag.partition("=")
    if option != "--config":
        return flag
    name, colon, preset = value.partition(":")
    folder = shipped("configs")
    file = Path(name) if Path(name).is_file() else folder / f"{name}.py"
    if not file.is_file():
        names = ", ".join(sorted(path.stem for path in folder.glob("*.py")))
        raise UserError(
            f"{option}={name}: there is no such file, and no such configuration: they "
            f"are {names}"
        )
    return f"{option}={file}{colon}{preset}"


def describe_configurations() -> str:
    """Returns what the shipped configurations say of themselves and their presets.

    They are not imported, which would import JAX.
    """
    modules = {path.stem: path.read_text() for path in shipped("configs").glob("*.py")}
    return "\n\n".join(
        f"{name}: {ast.get_docstring(ast.parse(modules[name]))}"
        for name in sorted(modules)
    )
