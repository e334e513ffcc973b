"""``python -m tests.cluster.fake_embedd``: the command with small units and the fake engine."""

from functools import partial

from embedd.bulk import opening
from embedd.bulk.units import Limits
from embedd.cli import main
from embedd.ray import cluster
from tests.cluster.fake_worker import FakeWorker

ROWS = 100  # of a unit

if __name__ == "__main__":
    vars(cluster)["UnitWorker"] = FakeWorker
    vars(opening)["Limits"] = partial(Limits, rows=ROWS)
    main()
