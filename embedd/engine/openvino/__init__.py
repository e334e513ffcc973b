"""Computes on OpenVINO: the same GGUF as llama.cpp, several times as fast on a CPU."""
