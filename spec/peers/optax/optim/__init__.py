"""Optimizers of optax with torch's interface."""
