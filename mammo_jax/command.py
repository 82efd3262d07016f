"""The command `mammo-jax`: every command of the project by its name.

  mammo-jax train --config=whole_res:phantom --workdir=runs/demo
  mammo-jax predict --model=runs/demo --out=scores exam/

`mammo-jax COMMAND --help` says what a command takes; that of `train`, what the
configurations and their presets are. `mammo-jax completion bash` prints what makes a
shell complete the names of commands; put it into ~/.bashrc by
`source <(mammo-jax completion bash)`, or into ~/.zshrc with `zsh`.

  mammo-jax --version
"""

import difflib
import runpy
import sys

from mammo_jax import __version__
from mammo_jax.common.folders import shipped
from tfds_builders import NAMES

# Home of each command (a module of the package, or a file in scripts/), and purpose.
COMMANDS = {
    "train": ("mammo_jax.main", "train a classifier and evaluate it"),
    "predict": ("mammo_jax.predict", "score mammograms"),
    "evaluate": ("mammo_jax.evaluate", "figures and a report from scores"),
    "layers": ("mammo_jax.layers", "print a network's layers"),
    "build-dataset": ("build_dataset.py", "package a data set"),
    "inspect-dataset": ("inspect_dataset.py", "look at a packaged data set"),
    "make-phantom": ("make_phantom.py", "draw synthetic mammograms"),
    "convert-weights": ("convert_weights.py", "port ImageNet's weights"),
    "share-model": ("share_model.py", "make a folder of a model to pass on"),
    "check-model": ("check_model.py", "check a model that was passed on"),
    "reproduce": ("reproduce.py", "run the paper's experiments"),
}
_SHELLS = {
    "bash": "complete -o default -W '{words}' mammo-jax",
    "zsh": "autoload -U +X bashcompinit && bashcompinit\n"
    "complete -o default -W '{words}' mammo-jax",
}
_EXIT_USAGE = 2


def main() -> None:
    """Runs the command that the first argument names; exits as it does."""
    name, arguments = (sys.argv[1:2] or ["--help"])[0], sys.argv[2:]
    if name in ("--help", "-h", "help"):
        print(_usage())
        return
    if name == "--version":
        print(f"mammo-jax {__version__}")
        return
    if name == "completion":
        _print_completion(arguments)
        return
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1) or COMMANDS
        error = f"there is no command {name!r}; did you mean {' or '.join(near)}?"
        print(f"error: {error}", file=sys.stderr)
        sys.exit(_EXIT_USAGE)
    sys.argv = [f"mammo-jax {name}", *arguments]
    home, _ = COMMANDS[name]
    if home.endswith(".py"):
        runpy.run_path(str(shipped("scripts") / home), run_name="__main__")
    else:
        runpy.run_module(home, run_name="__main__", alter_sys=True)


def _usage() -> str:
    lines = [f"  {name:<16} {purpose}" for name, (_, purpose) in COMMANDS.items()]
    configs = sorted(path.stem for path in shipped("configs").glob("*.py"))
    names = f"Configurations by name: {', '.join(configs)}; each also as NAME:PRESET."
    return "\n".join([str(__doc__), "Commands:", *lines, "", names, "", NAMES])


def _print_completion(arguments: list[str]) -> None:
    shell = (arguments or ["bash"])[0]
    if shell not in _SHELLS:
        print(f"error: no completion for {shell!r}; bash or zsh", file=sys.stderr)
        sys.exit(_EXIT_USAGE)
    print(_SHELLS[shell].format(words=" ".join(COMMANDS)))


if __name__ == "__main__":
    main()
