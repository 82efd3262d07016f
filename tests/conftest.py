"""Settings that every test shares."""

import os

# Before jax is imported: tests run on the CPU, and compiled steps are kept for the
# session so that tests in processes of their own do not compile them again.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
