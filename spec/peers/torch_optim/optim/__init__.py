"""Optimizers of torch.optim."""
