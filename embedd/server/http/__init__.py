"""HTTP itself: bodies in, JSON and streams out."""
