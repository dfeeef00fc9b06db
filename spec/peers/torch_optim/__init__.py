"""torch.optim under our public names."""
