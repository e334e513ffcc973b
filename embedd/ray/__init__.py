"""Bulk jobs on a Ray cluster, and `Embed`, a class for pipelines of Ray Data.

A cluster does the units of an ordinary bulk job: `worker` is what runs on its nodes and writes the
parts, `dispatch` gives the parts to workers and those of a lost worker to others, `probe` is what
each node is asked before, `cluster` is the only module that imports Ray.
"""

from embedd.ray.embed import Embed

__all__ = ["Embed"]
