"""Our public names over torch.nn."""
