"""optax, composed from its parts, under our public names."""
