"""Folders beside the package in a checkout, and inside it in a wheel."""

import ast
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def shipped(name: str) -> Path:
    """Returns the folder `configs` or `scripts` that belongs to this package."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def with_config_file(flag: str) -> str:
    """Returns `--config=NAME:PRESET` with the path of the shipped file for NAME.

    Other flags, paths, and names of no shipped configuration come back as they are.
    """
    option, _, value = flag.partition("=")
    name, colon, preset = value.partition(":")
    file = shipped("configs") / f"{name}.py"
    is_name = option == "--config" and name.isidentifier() and not Path(name).is_file()
    return f"{option}={file}{colon}{preset}" if is_name and file.is_file() else flag


def describe_configurations() -> str:
    """Returns what the shipped configurations say of themselves and their presets.

    They are not imported, which would import JAX.
    """
    modules = {path.stem: path.read_text() for path in shipped("configs").glob("*.py")}
    return "\n\n".join(
        f"{name}: {ast.get_docstring(ast.parse(modules[name]))}"
        for name in sorted(modules)
    )
