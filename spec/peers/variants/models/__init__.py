"""Models by other right formulas."""
