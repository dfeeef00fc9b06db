"""Compression written another way."""
