"""The command with the fake engine in its workers, and jobs of small units.

``python -m tests.faults.fake_embedd`` takes what ``python -m embedd`` takes.
"""

from embedd.cli import main
from embedd.engine import loader
from embedd.engine.fake import FAKE_BACKENDS
from tests.faults.small_units import use_small_units

if __name__ == "__main__":
    vars(loader)["LLAMA_BACKENDS"] = FAKE_BACKENDS
    use_small_units()
    main()
