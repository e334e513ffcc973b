"""A library that does not match the binding is refused before anything is computed with it."""

import ctypes

import pytest
from llama_cpp import llama_cpp as lib

from embedd.engine.llama.library import EXPECTED_DEFAULTS, check_defaults
from embedd.errors import EngineError

Params = lib.llama_context_params


def read_defaults() -> bytes:
    return bytes(lib.llama_context_default_params())


def drop(name: str, size: int) -> ctypes.Structure:
    """The defaults as a library gives them whose structure lacks the field *name*."""
    start = getattr(Params, name).offset
    data = read_defaults()
    found: ctypes.Structure = Params.from_buffer_copy(
        data[:start] + data[start + size :] + bytes(size)
    )
    return found


def test_the_installed_library_matches() -> None:
    check_defaults(lib.llama_context_default_params())


@pytest.mark.parametrize("name", EXPECTED_DEFAULTS)
def test_a_library_with_another_default_is_refused(name: str) -> None:
    defaults = lib.llama_context_default_params()
    setattr(defaults, name, not getattr(defaults, name))
    with pytest.raises(EngineError, match=rf"does not match llama-cpp-python: {name} is"):
        check_defaults(defaults)


@pytest.mark.parametrize(
    ("name", "size"),
    [("n_seq_max", 4), ("rope_freq_base", 4), ("cb_eval", 8), ("type_k", 8), ("embeddings", 1)],
)
def test_a_library_whose_structure_lacks_a_field_is_refused(name: str, size: int) -> None:
    with pytest.raises(EngineError, match="does not match llama-cpp-python"):
        check_defaults(drop(name, size))
