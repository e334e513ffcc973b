"""A CUDA build of llama.cpp as a wheel, and a run that checks and measures embedd on a GPU."""
