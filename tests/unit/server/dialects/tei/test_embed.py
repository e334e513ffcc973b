"""Headers of TEI's answers."""

import numpy as np
import pytest

from embedd.engine.backends import LLAMA_BACKENDS, LLAMA_GPU, OPENVINO_BF16, Backend
from embedd.server.dialects.tei.embed import tei_headers
from embedd.types import EmbedRequest, EmbedResult, ServedBy, Timings


@pytest.mark.parametrize(
    ("backend", "kind"),
    [(LLAMA_GPU, "gpu"), (LLAMA_BACKENDS[0], "cpu"), (OPENVINO_BF16, "cpu")],
    ids=lambda one: getattr(one, "name", one),
)
def test_the_compute_type_is_that_of_the_backend(backend: Backend, kind: str) -> None:
    result = EmbedResult(
        vectors=np.ones((1, 2), np.float32),
        tokens=[3],
        timings=Timings(),
        served_by=ServedBy(digest="sha256:0", engine=backend.engine, backend=backend.name),
    )
    assert tei_headers(EmbedRequest(model="m", inputs=["a"]), result)["x-compute-type"] == kind
