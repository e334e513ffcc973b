"""For the operator: health and metrics."""
