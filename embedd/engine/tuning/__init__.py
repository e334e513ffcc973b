"""The measured choice of batch size and replicas."""
