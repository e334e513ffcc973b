"""Painting with stable-diffusion.cpp."""
