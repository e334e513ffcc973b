"""Texts in, vectors, scores or tokens out: checks, tokenizing, computing, finishing."""
