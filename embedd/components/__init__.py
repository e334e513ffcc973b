"""Files of image models: which component a file is, and which family it belongs to."""
