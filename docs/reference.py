"""Writes the reference pages of `import mammo_jax` from its docstrings.

python docs/reference.py build/docs
"""

import contextlib
import inspect
import sys
from pathlib import Path
from unittest import mock

import pdoc

import mammo_jax


def write_reference(folder: Path) -> None:
    """Writes the pages of what `mammo_jax` names in `__all__` into `folder`."""
    public = {name: getattr(mammo_jax, name) for name in mammo_jax.__all__}
    with contextlib.ExitStack() as stack:
        # pdoc looks into the module's dictionary, where names that are imported late
        # do not stand yet, and takes a module of the same name first.
        stack.enter_context(mock.patch.multiple(mammo_jax, __path__=[], create=True))
        stack.enter_context(mock.patch.dict(vars(mammo_jax), public))
        for value in public.values():
            call = vars(value).get("__call__") if inspect.isclass(value) else None
            if call:  # pdoc shows methods with underscores where they ask for it.
                shown = f"{inspect.getdoc(call)}\n\n@public"
                stack.enter_context(mock.patch.object(call, "__doc__", shown))
        pdoc.render.configure(docformat="google", show_source=False)
        pdoc.pdoc("mammo_jax", "!mammo_jax.", output_directory=folder)


if __name__ == "__main__":
    write_reference(Path(sys.argv[1]))
