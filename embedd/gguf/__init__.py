"""Reads GGUF files: header and arrays, bounded and without the weights."""
