"""The commands' help, and what it says of configurations and data sets."""

import importlib
import re
import runpy
import subprocess
import sys

import pytest

import mammo_jax
from mammo_jax.command import COMMANDS, main
from mammo_jax.common.folders import describe_configurations, shipped
from mammo_jax.config import PRESETS
from mammo_jax.phantom import LAYOUTS
from mammo_jax.weights.weight_names import SCHEMES
from tfds_builders import NAMES

# Each takes a good part of a second to import, or more.
HEAVY = {
    *("jax", "flax", "orbax", "grain", "tensorflow_datasets", "clu", "scipy", "cv2"),
    *("skimage", "sklearn", "matplotlib", "pydicom", "imagecodecs", "h5py"),
}
# Runs a module as `python -m` does, and says what it has imported at the end.
SHOW_IMPORTS = """
import runpy, sys
module, *sys.argv[1:] = sys.argv[1:]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code, end.code
print("imported:", *{name.partition(".")[0] for name in sys.modules})
"""
MODULES = [("mammo_jax.command", name) for name in COMMANDS]
MODULES += [(home,) for home, _ in COMMANDS.values() if not home.endswith(".py")]


def help_of(*command: str) -> tuple[str, set[str]]:
    """Returns what `--help` prints, and the packages that were imported for it."""
    done = subprocess.run(
        [sys.executable, "-c", SHOW_IMPORTS, *command, "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    shown, _, imported = done.stdout.rpartition("imported: ")
    return shown, set(imported.split())


@pytest.mark.parametrize("command", [*MODULES, ("mammo_jax.command",)], ids=" ".join)
def test_help_imports_nothing_that_takes_long(command):
    shown, imported = help_of(*command)
    assert "--" in shown
    assert not imported & HEAVY


@pytest.mark.parametrize("command", ["train", "layers"])
def test_help_of_a_configurations_command_explains_it(command):
    shown, _ = help_of("mammo_jax.command", command)
    assert describe_configurations() in shown
    assert NAMES in shown
    assert "--config.batch_size=4" in shown


@pytest.mark.parametrize("command", [("build-dataset",), ()])
def test_help_names_the_data_sets(command):
    assert NAMES in help_of("mammo_jax.command", *command)[0]


def test_every_preset_is_described():
    described = describe_configurations()
    assert not [name for name in PRESETS if f"`{name}`" not in described]


@pytest.mark.parametrize("data_set", ["cbis_ddsm", "inbreast", "manifest"])
def test_every_part_of_a_data_sets_name_is_named(data_set):
    module = f"tfds_builders.{data_set}.{data_set}_dataset_builder"
    configs = importlib.import_module(module).Builder.builder_configs
    parts = {part for name in configs for part in re.split("_|patients", name)}
    assert f"  {data_set}/" in NAMES
    assert parts - {""} <= {*re.findall(r"[a-z\d]+", NAMES.replace("patients", " "))}


def test_choices_are_what_there_is():
    assert (
        "{" + ",".join(sorted(LAYOUTS)) + "}"
        in help_of("mammo_jax.command", "make-phantom")[0]
    )
    assert (
        "{" + ",".join(sorted(SCHEMES)) + "}"
        in help_of("mammo_jax.command", "convert-weights")[0]
    )


@pytest.mark.parametrize("script", ["make_phantom.py", "build_dataset.py"])
def test_options_are_not_shortened(capsys, script):
    parse = runpy.run_path(str(shipped("scripts") / script))["parse_arguments"]
    with pytest.raises(SystemExit):
        parse(["--hel"])
    assert "usage" in capsys.readouterr().err


def test_the_version_is_told(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mammo-jax", "--version"])
    main()
    assert capsys.readouterr().out == f"mammo-jax {mammo_jax.__version__}\n"


@pytest.mark.parametrize(("name", "near"), [("trian", "train"), ("x", "predict")])
def test_a_command_that_is_not_there_is_refused(monkeypatch, capsys, name, near):
    monkeypatch.setattr(sys, "argv", ["mammo-jax", name])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: there is no command {name!r}; did you mean ")
    assert near in line
