"""The command with the fake engine in its workers, and jobs of small units.

``python -m tests.faults.fake_embedd`` takes what ``python -m embedd`` takes.
"""

from functools import partial

from embedd.bulk import opening, requests
from embedd.bulk.units import Limits
from embedd.cli import main
from embedd.engine import loader
from embedd.engine.fake import FAKE_BACKENDS

ROWS = 100  # of a unit

if __name__ == "__main__":
    vars(loader)["LLAMA_BACKENDS"] = FAKE_BACKENDS
    vars(opening)["Limits"] = partial(Limits, rows=ROWS)
    vars(requests)["RANGES"] = Limits(rows=ROWS)
    main()
