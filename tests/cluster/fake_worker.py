"""Workers with the fake engine; a process that imports this has no other."""

from embedd.engine import loader
from embedd.engine.fake import FAKE_BACKENDS
from embedd.ray import Embed
from embedd.ray.worker import UnitWorker

vars(loader)["LLAMA_BACKENDS"] = FAKE_BACKENDS


class FakeWorker(UnitWorker):
    """A `UnitWorker` whose class names this module, which its process imports therefore."""


class FakeEmbed(Embed):
    """An `Embed`, likewise."""
