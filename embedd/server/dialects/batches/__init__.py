"""OpenAI's Batch API: files of requests, and batches that answer them."""
