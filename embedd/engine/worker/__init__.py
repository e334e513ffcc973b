"""The worker process: loads one model and computes what the server sends."""
