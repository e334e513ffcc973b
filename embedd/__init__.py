"""embedd: a local model server for embeddings."""

__version__ = "0.1.0"
