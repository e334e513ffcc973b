"""Texts in, vectors, scores or tokens out."""
