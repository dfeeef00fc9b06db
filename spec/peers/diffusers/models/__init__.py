"""Models over diffusers."""
