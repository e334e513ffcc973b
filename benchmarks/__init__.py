"""Measurements of embedd against others on the same GGUF and the same texts."""
