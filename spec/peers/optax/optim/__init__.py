"""Optimizers of optax behind torch's interface."""
