"""Door two: the models of a store."""

from embedd.library.create import Source
from embedd.library.library import Entries, Library, ModelEntry, Shown
from embedd.library.progress import Progress, ReportProgress
from embedd.library.pull import Refreshed
from embedd.library.verify import Verified

__all__ = [
    "Entries",
    "Library",
    "ModelEntry",
    "Progress",
    "Refreshed",
    "ReportProgress",
    "Shown",
    "Source",
    "Verified",
]
