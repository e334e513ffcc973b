"""Manages the models of a store: pull, create, copy, delete, list, show, verify."""

from embedd.library.create import Source
from embedd.library.library import Library, StoredModels
from embedd.library.progress import ReportProgress
from embedd.library.pull import Refreshed
from embedd.library.verify import Verified

__all__ = [
    "Library",
    "Refreshed",
    "ReportProgress",
    "Source",
    "StoredModels",
    "Verified",
]
