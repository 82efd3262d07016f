"""Every command on a page is one that its program accepts, and its Python compiles."""

import argparse
import copy
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
from absl import flags
from doc_pages import OF_TODAY, ROOT, Command, blocks, commands, name
from ml_collections import config_flags

from mammo_jax.command import COMMANDS
from mammo_jax.common.folders import with_config_file
from mammo_jax.main import parse_flags  # with the command's flags

# ml_collections loads configuration files in a way that Python 3.12 drops.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def _load(path: Path):
    """A script's module, without running it."""
    spec = importlib.util.spec_from_file_location(f"page_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _parse_config_command(arguments: list[str]) -> None:
    """Parses as the commands of absl do, in a registry of flags of its own."""
    arguments = [with_config_file(argument) for argument in arguments]
    registry = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", flag_values=registry, sys_argv=["x", *arguments], lock_config=True
    )
    for flag in flags.FLAGS.flags_by_module_dict()[parse_flags.__module__]:
        if flag.name not in registry:
            registry[flag.name] = copy.deepcopy(flag)
    left = registry(["x", *arguments])
    assert left == ["x"]
    assert registry["config"].value is not None


def _parse_by_source(path: Path, arguments: list[str]) -> None:
    """Looks for the options in the source of a program that builds its parser late."""
    text = path.read_text(encoding="utf-8")
    if "cuda_target.parse_page(" in text:  # An option that these programs share.
        text += (ROOT / "benchmarks" / "cuda_target.py").read_text(encoding="utf-8")
    for argument in arguments:
        option = argument.split("=")[0]
        assert not option.startswith("-") or f'"{option}"' in text, option


def _check_python(command: Command) -> None:
    target = command.program.split()[-1]
    is_file = target.endswith(".py")
    path = ROOT / (target if is_file else f"{target.replace('.', '/')}.py")
    assert path.is_file()
    if not command.arguments:
        return
    if any(argument.startswith("--config=") for argument in command.arguments):
        _parse_config_command(command.arguments)
        return
    if target == "benchmarks.tf32":  # It runs another program.
        program, *arguments = command.arguments
        _check_python(Command(f"python {program}", arguments))
        return
    if path.parent.name in ("benchmarks", "attack"):
        _parse_by_source(path, command.arguments)
        return
    parse = _load(path).parse_arguments
    try:
        assert isinstance(parse(command.arguments), argparse.Namespace)
    except SystemExit as exit_:
        pytest.fail(f"{command} is refused: exit code {exit_.code}")


def _check_installed(command: Command) -> None:
    name = command.program.split()[-1]
    if name != "completion":
        home, _ = COMMANDS[name]
        program = f"scripts/{home}" if home.endswith(".py") else f"-m {home}"
        _check_python(Command(f"python {program}", command.arguments))


def _check_make(command: Command) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    # Of variables, too, such as those that name a stamp file.
    targets = {*re.findall(r"^([\w-]+):", makefile, re.M), ".cuda-target/.installed"}
    for target in command.arguments:
        assert "=" in target or target in targets, target


def _check_uv(command: Command) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for argument in command.arguments:
        for extra in re.findall(r"^\.\[(.+)\]$", argument):
            assert {*extra.split(",")} <= {*project["optional-dependencies"]}
        if argument.endswith(".lock"):
            assert (ROOT / argument).is_file()


_CHECKS = {
    "python": _check_python,
    "mammo-jax": _check_installed,
    "make": _check_make,
    "uv": _check_uv,
}


@pytest.mark.parametrize("page", OF_TODAY, ids=name)
def test_commands_are_accepted(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for command in commands(page):
        _CHECKS[command.program.split()[0]](command)


def test_pages_hold_commands():
    found = [command.program for page in OF_TODAY for command in commands(page)]
    assert len(found) > 50
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in COMMANDS:
        assert f"| `{command}` |" in readme
    for script in (ROOT / "scripts").glob("*.py"):
        assert f"python scripts/{script.name}" in found


@pytest.mark.parametrize(
    "line",
    [
        "python -m mammo_jax.main --config=configs/whole_res.py --config.batchsize=4",
        "python -m mammo_jax.main --config=configs/whole_res.py:phantoms --workdir=x",
        "python -m mammo_jax.main --config=configs/whole_res.py --workdirs=x",
        "python -m mammo_jax.predict --model=x --outs=y z",
        "python scripts/build_dataset.py cbis_ddsm/paper_whole --data_dir=data",
        "python -m benchmarks.model_costs --pages=README.md",
        "mammo-jax predict --models=x --out=y z",
        "mammo-jax draw --out=x",
        "make demos",
        "uv pip install --editable '.[dicoms]'",
    ],
)
def test_a_command_that_its_program_refuses_is_found(line, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"```bash\n{line}\n```\n", encoding="utf-8")
    (command,) = commands(page)
    with pytest.raises((Exception, pytest.fail.Exception)):
        _CHECKS[command.program.split()[0]](command)


@pytest.mark.parametrize("page", OF_TODAY, ids=name)
def test_python_compiles(page):
    for block in blocks(page, "python", "py"):
        compile(block, name(page), "exec")
