"""mambapy under our public names."""
