"""Models over vector_quantize_pytorch."""
