"""What some tests need and not every machine has."""

import pytest

from embedd.engine.installation import has_openvino


def require_openvino() -> None:
    """Skip the test, or the module that calls this, where the extra is not installed.

    Whether it is there is asked as embedd asks it: one that is there and cannot be
    imported fails.
    """
    if not has_openvino():
        pytest.skip("needs the extra embedd-server[openvino]", allow_module_level=True)
