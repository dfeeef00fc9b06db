"""Our public names over diffusers."""
