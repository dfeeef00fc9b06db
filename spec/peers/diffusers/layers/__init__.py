"""Layers of diffusers."""
