"""What the papers report, shown by small real runs."""
