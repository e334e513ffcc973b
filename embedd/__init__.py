"""embedd: a local model server for embeddings."""
