"""transformers under our public names."""
