"""Optimizers of pytorch_optimizer (Hyeongchan Kim) under our public names."""
