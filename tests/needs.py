"""What some tests need and not every machine has, and what a run asks all servers for."""

import os

import pytest

from embedd.bulk.sources import has_arrow
from embedd.choices import Precision
from embedd.engine.backends import choose_openvino
from embedd.engine.installation import has_diffusion, has_openvino
from embedd.errors import ModelLoadError
from embedd.machine import read_cpu_features

# `EMBEDD_PRECISION=f32 python -m pytest` runs all tests with servers that never compute in bf16.
INHERITED = {name: os.environ[name] for name in ["EMBEDD_PRECISION"] if name in os.environ}


def require_openvino() -> None:
    """Skip the test, or the module that calls this, where the extra is not installed.

    Whether it is there is asked as embedd asks it: one that is there and cannot be
    imported fails.
    """
    if not has_openvino():
        pytest.skip("needs the extra embedd-server[openvino]", allow_module_level=True)


def require_diffusion() -> None:
    """Skip the test, or the module that calls this, where the extra for images is not installed."""
    if not has_diffusion():
        pytest.skip("needs the extra embedd-server[images]", allow_module_level=True)


def require_arrow() -> None:
    """Skip the test, or the module that calls this, where the extra for bulk is not installed."""
    if not has_arrow():
        pytest.skip("needs the extra embedd-server[bulk]", allow_module_level=True)


def require_bf16() -> None:
    """Skip the test where OpenVINO can neither compute in bf16 nor emulate it."""
    require_openvino()
    try:
        choose_openvino(Precision.BF16, read_cpu_features())
    except ModelLoadError:
        pytest.skip("needs a CPU with bf16 instructions or AVX-512")
