"""What a loaded model does for requests: queue, batches, deduplication."""
