"""Graph networks of PyTorch Geometric."""
