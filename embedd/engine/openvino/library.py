"""The boundary to OpenVINO: import without its tools, compilation for the CPU."""

import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

# The package imports its conversion tools where they are installed, and those import a
# telemetry client. A module that is None here cannot be imported in this process.
for _name in ("openvino.tools", "openvino_telemetry"):
    sys.modules.setdefault(_name, None)  # type: ignore[arg-type]  # typeshed knows no None here

import openvino as ov
from openvino import opset13 as ops

from embedd.choices import Precision
from embedd.engine.backends import NO_BF16
from embedd.engine.protocol import UnsuitableError
from embedd.errors import ModelLoadError

__all__ = ["compile_graph", "make_model", "open_core", "ops"]

# For each stream the plugin caches what it prepared for an input shape. Lengths are rounded,
# so the same few hundred shapes recur.
CACHED_SHAPES = 512

ELEMENT_TYPES = {Precision.F32: ov.Type.f32, Precision.BF16: ov.Type.bf16}


@cache
def open_core() -> Any:
    """Return OpenVINO's core, which is opened once in the process.

    Raises:
        UnsuitableError: OpenVINO has no plugin for this CPU.
    """
    core = ov.Core()
    try:
        # Not by the list of all devices, for which it loads the plugins of all of them.
        core.get_property("CPU", "FULL_DEVICE_NAME")
    except RuntimeError as error:
        raise UnsuitableError(f"OpenVINO has no plugin for this CPU: {error}") from error
    return core


def make_model(results: Sequence[Any], parameters: Sequence[Any]) -> Any:
    """Return a graph with these outputs and inputs."""
    return ov.Model(list(results), list(parameters), "embedd")


def compile_graph(graph: Any, *, streams: int, threads: int, precision: Precision) -> Any:
    """Compile *graph* to compute in *streams* at a time, with *threads* each.

    Raises:
        UnsuitableError: OpenVINO refuses it.
        ModelLoadError: OpenVINO cannot compute in bf16 on this CPU.
    """
    settings = {
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": streams * threads,
        "INFERENCE_PRECISION_HINT": precision.value,
        # Without it f32 products may be computed in bf16 on ARM ("fast math").
        "EXECUTION_MODE_HINT": "ACCURACY" if precision is Precision.F32 else "PERFORMANCE",
        "CPU_RUNTIME_CACHE_CAPACITY": CACHED_SHAPES,
        "ENABLE_CPU_PINNING": False,  # several models share the cores
    }
    try:
        compiled = open_core().compile_model(graph, "CPU", settings)
    except RuntimeError as error:
        raise UnsuitableError(f"OpenVINO cannot compile the model: {error}") from error
    # A hint that the CPU cannot follow is ignored without an error: f32 computes then.
    if compiled.get_property("INFERENCE_PRECISION_HINT") != ELEMENT_TYPES[precision]:
        raise ModelLoadError(NO_BF16)
    return compiled
