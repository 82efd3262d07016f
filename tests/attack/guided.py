"""Attacks a reader with inputs that atheris steers towards code not yet reached.

    pip install atheris
    python tests/attack/guided.py KIND [-max_total_time=60] [CORPUS_FOLDER]

KIND is one of `targets.TARGETS`, such as dicom, picture, regions or manifest. Further
arguments are libFuzzer's. A finding ends the run, and its input is kept as crash-*.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

import atheris

with atheris.instrument_imports(include=["mammo_jax", "pydicom", "plistlib", "csv"]):
    from targets import TARGETS

from seeds import CANARY, make_seeds

from mammo_jax.common.errors import UserError


def main() -> None:
    """Writes the whole files as a corpus, and attacks."""
    kind, *options = sys.argv[1:]
    read = TARGETS[kind]
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, content in enumerate(make_seeds(Path(folder))[kind]):
            (corpus / str(number)).write_bytes(content)

        def read_once(content: bytes) -> None:
            with tempfile.TemporaryDirectory() as place:
                try:
                    read(content, Path(place))
                except UserError as error:
                    if CANARY in str(error):
                        raise RuntimeError("a header's value is in a message") from None

        arguments = [sys.argv[0], "-timeout=20", "-rss_limit_mb=3000", *options]
        atheris.Setup([*arguments, str(corpus)], read_once)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
