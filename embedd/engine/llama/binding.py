"""llama-cpp-python's ctypes layer, imported without the rest of its package.

The package itself imports its class `Llama` first, with a template engine and a database: a
fifth of the processor time in which a worker starts, and 5 MB.
"""

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import Any

PACKAGE = "llama_cpp"
LAYER = "llama_cpp.llama_cpp"


def import_layer() -> Any:
    """Return the module of the ctypes layer.

    A later ``import llama_cpp`` gets the whole package, with this module in it.

    Raises:
        ModuleNotFoundError: llama-cpp-python is not installed.
    """
    spec = None if PACKAGE in sys.modules else find_spec(PACKAGE)
    if spec is None:
        return import_module(LAYER)
    sys.modules[PACKAGE] = module_from_spec(spec)  # which knows its folder, and has run nothing
    try:
        return import_module(LAYER)
    finally:
        del sys.modules[PACKAGE]


lib = import_layer()
