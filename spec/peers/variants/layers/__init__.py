"""Layers written another way."""
