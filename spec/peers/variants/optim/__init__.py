"""Optimizers by other right formulas."""
