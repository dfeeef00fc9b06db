"""Models over torch.nn."""
