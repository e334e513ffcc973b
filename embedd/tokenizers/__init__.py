"""Tokenizing: from texts to token sequences that a model accepts."""
