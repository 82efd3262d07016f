#!/bin/sh
# Prints the newest supported Python that works, or nothing. The minor versions to try,
# and their order, can be given as arguments.
#
# A name in PATH is not enough: pyenv's shims answer to versions that they refuse to
# start, and some distributions leave out venv.
for minor in ${*:-13 12 11}; do
  for python in "python3.$minor" \
    "${PYENV_ROOT:-$HOME/.pyenv}/versions/3.$minor."*/bin/python3 python3; do
    if "$python" -c "import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, $minor))" \
      >/dev/null 2>&1; then
      command -v "$python"
      exit
    fi
  done
done
