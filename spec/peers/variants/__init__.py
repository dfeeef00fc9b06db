"""Independent implementations: other ways of writing the same things."""
