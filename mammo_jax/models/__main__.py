"""The command `python -m mammo_jax.layers` by its old name."""

import runpy

runpy.run_module("mammo_jax.layers", run_name="__main__", alter_sys=True)
