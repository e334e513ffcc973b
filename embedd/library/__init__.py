"""Door two: the models of a store."""

from embedd.library.creating import Source
from embedd.library.library import Entries, Library, ModelEntry, Shown
from embedd.library.progress import Progress, ReportProgress
from embedd.library.pulling import Refreshed
from embedd.library.verifying import Verified

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
