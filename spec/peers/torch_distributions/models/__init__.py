"""Models over torch.distributions."""
