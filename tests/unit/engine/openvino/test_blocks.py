"""Building blocks of graphs: what they keep in memory."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.needs import require_openvino

require_openvino()

# In a process of its own, whose memory nothing else changes.
MEASURE = """
    import re
    from pathlib import Path
    import numpy as np
    from embedd.engine.openvino import blocks
    from embedd.engine.openvino.library import compile_graph, make_model, open_core, ops
    from embedd.choices import Precision

    def private():
        status = Path("/proc/self/status").read_text()
        return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", status)[1])

    open_core()
    weight = np.ones((4096, 4096), np.float16)
    before = private()
    x = ops.parameter([-1, 4096], np.float32, "x")
    graph = make_model([blocks.linear(x, weight, None)], [x])
    compiled = compile_graph(graph, streams=1, threads=1, precision=Precision.F32)
    [products] = compiled.create_infer_request().infer([np.ones((8, 4096), np.float32)]).values()
    print(products.max(), (private() - before) / (2 * weight.nbytes))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_float16_matrix_has_one_float32_copy_in_a_compiled_graph() -> None:
    """The one that OpenVINO packs to compute with; there is none of the unpacked weights."""
    command = [sys.executable, "-c", textwrap.dedent(MEASURE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    products, copies = map(float, done.stdout.split())
    assert products == 4096
    assert copies < 1.5
