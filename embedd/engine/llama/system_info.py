"""Child process that prints what llama.cpp was built for: ``python -m …llama.system_info``.

One line of the library's own, such as ``CPU : AVX2 = 1 | FMA = 1 |``; or exit status 1 and the
reason on stderr. A library for another CPU ends the process: its parent reads the signal.
"""

import sys

from embedd.engine.child_process import prepare_process
from embedd.engine.llama.binding import lib
from embedd.engine.llama.library import open_library
from embedd.errors import EngineError


def main() -> int:
    """Entry point; returns the exit status."""
    prepare_process()
    try:
        open_library()
    except EngineError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{lib.llama_print_system_info().decode()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
