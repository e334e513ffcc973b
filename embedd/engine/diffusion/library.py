"""The boundary to stable-diffusion.cpp: version check, log, and parameter structures.

Only the binding's ctypes layer is used. Its class reads files that a prompt names, never frees
a picture and swaps the levels of the log.
"""

import ctypes
import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version

from stable_diffusion_cpp import stable_diffusion_cpp as lib

from embedd.errors import EngineError

WARNING_LEVEL, ERROR_LEVEL = 2, 3
KEPT_LINES = 20

# What the initialisers of the pinned release set. Any other value means that the structures of
# library and binding differ; some fields stand at the end, where every shift shows.
CONTEXT_DEFAULTS = {
    "vae_decode_only": True,
    "free_params_immediately": True,
    "wtype": 41,
    "rng_type": 1,
    "prediction": 6,
    "enable_mmap": False,
    "chroma_use_dit_mask": True,
    "chroma_t5_mask_pad": 1,
    "max_vram": 0.0,
}
PICTURE_DEFAULTS = {
    "clip_skip": -1,
    "width": 512,
    "height": 512,
    "strength": 0.75,
    "seed": -1,
    "batch_count": 1,
}

# Where a line of the log comes from, and the folders of files, which help no user.
_NOISE = re.compile(r"^\S+\.\w+:\d+ +- |(?:/[^\s/:']+)+/(?=[^\s/])")

_lines: list[tuple[int, str]] = []


def _keep_line(level: int, text: bytes, _: object) -> None:
    # An exception in a callback leaves C with an undefined result: nothing here raises. The
    # first lines say why, those after them what followed from it.
    if level >= WARNING_LEVEL and len(_lines) < KEPT_LINES:
        _lines.append((level, text.decode("utf-8", "replace").strip()))


# Module-level, because the library holds the address for the life of the process.
_keep_line_callback = lib.sd_log_callback(_keep_line)


@cache
def open_library() -> str:
    """Prepare the library in this process, once; return its name and version.

    Raises:
        EngineError: The library does not match the binding.
    """
    check_defaults(make_context_params(), CONTEXT_DEFAULTS)
    picture = make_picture_params()
    check_defaults(picture, PICTURE_DEFAULTS)
    check_defaults(picture.hires, {"upscale_tile_size": 128})
    # Before the first context: without it the library writes to stderr.
    lib.sd_set_log_callback(_keep_line_callback, None)
    # The library itself reports "unknown".
    return f"stable-diffusion.cpp {version('stable-diffusion-cpp-python')}"


def make_context_params() -> lib.sd_ctx_params_t:
    """Return the library's defaults for a context; a zeroed structure would not be valid."""
    params = lib.sd_ctx_params_t()
    lib._lib.sd_ctx_params_init(ctypes.byref(params))  # noqa: SLF001 - exported, but not wrapped
    return params


def make_picture_params() -> lib.sd_img_gen_params_t:
    """Return the library's defaults for a picture."""
    params = lib.sd_img_gen_params_t()
    lib._lib.sd_img_gen_params_init(ctypes.byref(params))  # noqa: SLF001 - exported, but not wrapped
    return params


def check_defaults(params: ctypes.Structure, expected: Mapping[str, object]) -> None:
    """Check that the library's default parameters are those of the pinned release.

    Raises:
        EngineError: The library does not match the binding.
    """
    for name, value in expected.items():
        found = getattr(params, name, None)
        if found != value:
            raise EngineError(
                "the stable-diffusion.cpp library does not match stable-diffusion-cpp-python: "
                f"{name} is {found}, expected {value}; reinstall it and unset "
                "STABLE_DIFFUSION_CPP_LIB"
            )


def fill_params(params: ctypes.Structure, **values: object) -> None:
    """Set fields of a parameter structure.

    Raises:
        TypeError: The structure has no such field; ctypes would silently create an attribute.
    """
    known = {field[0] for field in params._fields_}
    for name, value in values.items():
        if name not in known:
            raise TypeError(f"{type(params).__name__} has no field {name!r}")
        setattr(params, name, value)


def forget_lines() -> None:
    """Forget what the library has logged: the next lines are those of the call that follows."""
    _lines.clear()


def find_reason() -> str:
    """Return the first error that the library logged, with the warning before it.

    It is the only explanation that it gives when a call returns NULL.
    """
    reason = ""
    for level, line in _lines:
        text = _NOISE.sub("", line)
        if level >= ERROR_LEVEL:
            return f"{reason}: {text}" if reason else text
        reason = text
    return reason or "the library gives no reason"
