"""The boundary to stable-diffusion.cpp."""

from tests.needs import require_diffusion

require_diffusion()

import ctypes
from importlib.metadata import version

import pytest

from embedd.engine.diffusion import library
from embedd.errors import EngineError


def log(level: int, text: str) -> None:
    library._keep_line(level, text.encode(), None)


@pytest.fixture(autouse=True)
def no_lines() -> None:
    library.forget_lines()


def test_the_library_matches_its_binding_and_has_the_version_of_the_package() -> None:
    assert library.open_library() == (
        f"stable-diffusion.cpp {version('stable-diffusion-cpp-python')}"
    )


def test_a_library_of_another_version_is_refused() -> None:
    params = library.make_context_params()
    params.wtype += 1
    with pytest.raises(EngineError, match=r"wtype is 42, expected 41; reinstall it"):
        library.check_defaults(params, library.CONTEXT_DEFAULTS)


def test_a_field_that_does_not_exist_is_an_error() -> None:
    class Params(ctypes.Structure):
        _fields_ = (("steps", ctypes.c_int),)

    params = Params()
    library.fill_params(params, steps=3)
    assert params.steps == 3
    with pytest.raises(TypeError, match="Params has no field 'stepps'"):
        library.fill_params(params, stepps=3)


def test_the_reason_is_the_first_error_without_where_it_comes_from() -> None:
    log(3, "model.cpp:1067 - tensor 'a.b/c' not in model file\n")
    log(3, "stable-diffusion.cpp:801  - load tensors from model loader failed")
    assert library.find_reason() == "tensor 'a.b/c' not in model file"


def test_the_warning_before_the_first_error_is_part_of_the_reason() -> None:
    log(1, "x.cpp:1 - unimportant")
    log(2, "x.cpp:2 - an earlier one")
    log(2, "model.cpp:229  - unknown format /home/me/models/cat.gguf")
    log(3, "x.cpp:3 - init model loader from file failed: '/home/me/models/cat.gguf'")
    assert library.find_reason() == (
        "unknown format cat.gguf: init model loader from file failed: 'cat.gguf'"
    )


def test_without_an_error_the_last_warning_is_the_reason() -> None:
    assert library.find_reason() == "the library gives no reason"
    log(2, "x.cpp:2 - careful")
    assert library.find_reason() == "careful"


def test_what_follows_from_an_error_does_not_displace_it() -> None:
    for number in range(100):
        log(3, f"tensor {number}")
    assert library.find_reason() == "tensor 0"
    assert len(library._lines) == library.KEPT_LINES
