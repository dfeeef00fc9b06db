"""Compression with torch's losses and pruning."""
