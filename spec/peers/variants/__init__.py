"""Right twins: other ways of writing the same things."""
