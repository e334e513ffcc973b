"""Door two: the models of a store."""

from embedd.library.library import Entries, Library, ModelEntry
from embedd.library.progress import Progress, ReportProgress

__all__ = ["Entries", "Library", "ModelEntry", "Progress", "ReportProgress"]
