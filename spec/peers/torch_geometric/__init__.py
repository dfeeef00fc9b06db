"""PyTorch Geometric under our public names."""
