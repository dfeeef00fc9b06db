"""Other right ways to quantize."""
