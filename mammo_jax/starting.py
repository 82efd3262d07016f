"""What Python does differently while a program is imported, built and traced."""

import contextlib
import gc
import sys
from collections.abc import Iterator

# Seconds after which a thread that waits for Python's interpreter gets it.
_USUAL_INTERVAL = sys.getswitchinterval()


@contextlib.contextmanager
def quick_start() -> Iterator[None]:
    """Makes imports and tracing quicker by about a tenth; for commands, not libraries.

    Python does not look for garbage: hundreds of thousands of objects are made, nearly
    all of which stay, and it would look through them again and again. And threads take
    turns more often, so that one that works in NumPy, and asks for the interpreter
    between any two operations, gets on beside one that traces. Where two overlap, the
    first to end puts everything back.
    """
    try:
        gc.disable()
        sys.setswitchinterval(_USUAL_INTERVAL / 10)
        yield
    finally:
        sys.setswitchinterval(_USUAL_INTERVAL)
        gc.enable()
