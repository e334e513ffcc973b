"""The subset of AUTOMATIC1111's API by which Open WebUI and phone apps paint."""
