"""Our public names over torch.distributions."""
