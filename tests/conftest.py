"""Settings that every test shares."""

import os
from pathlib import Path

# Before jax is imported: tests run on the CPU, and the workers, the processes that they
# start and the next session share what XLA has compiled.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache/xla")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Threads of convolutions wait for each other; with several test processes they would
# wait for a core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import jaxtyping
import pytest

# Annotations are checked at every call, shapes included; before any of it is imported.
jaxtyping.install_import_hook(
    ["mammo_jax", "tfds_builders", "paper"], "annotations.checked"
)

# Compiling takes its time, and not the same time twice.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets values of wrong types through, for tests of what is said of them."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="session")
def raw_phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes small phantoms as raw files, which tests leave as they are."""
    from mammo_jax.phantom import write_cbis_ddsm

    folder = tmp_path_factory.mktemp("raw_phantoms") / "raw"
    write_cbis_ddsm(folder, cases=14, seed=3, height=160, num_workers=1)
    return folder


@pytest.fixture(scope="session")
def phantom_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds a few phantoms, packaged as whole images and as patches."""
    from mammo_jax.phantom import write_cbis_ddsm
    from tfds_builders.building import build

    folder = tmp_path_factory.mktemp("phantom_data")
    write_cbis_ddsm(folder / "raw", cases=24, seed=0, height=288, num_workers=1)
    for name in ("paper_whole_h288", "paper_s1_h288"):
        build(f"cbis_ddsm/{name}", folder / "raw", folder, num_workers=1)
    return folder
