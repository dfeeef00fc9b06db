"""Models of mambapy."""
