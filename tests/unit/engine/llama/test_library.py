"""A library that does not match the binding is refused before anything is computed with it."""

import ctypes
from pathlib import Path

import pytest
from llama_cpp import llama_cpp as lib

from embedd.engine.llama.library import EXPECTED_DEFAULTS, check_defaults, load_backends
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


class PortableGgml:
    """ggml without backends of its own; as many can be loaded as *found*."""

    def __init__(self, *, loaded: int = 0, found: int = 1) -> None:
        self.loaded = loaded
        self.found = found
        self.searched: list[bytes] = []

    def ggml_backend_reg_count(self) -> int:
        return self.loaded

    def ggml_backend_load_all_from_path(self, folder: bytes) -> None:
        self.searched.append(folder)
        self.loaded += self.found


def test_a_library_with_backends_of_its_own_loads_no_others() -> None:
    ggml = PortableGgml(loaded=1)
    load_backends(ggml, Path("/lib"))
    assert ggml.searched == []


def test_a_portable_library_loads_the_backends_beside_it() -> None:
    ggml = PortableGgml(found=1)
    load_backends(ggml, Path("/llama_cpp/lib"))
    assert ggml.searched == [b"/llama_cpp/lib"]


def test_a_library_without_a_backend_for_this_cpu_is_refused() -> None:
    with pytest.raises(EngineError, match="no backend for this CPU in /llama_cpp/lib"):
        load_backends(PortableGgml(found=0), Path("/llama_cpp/lib"))
