"""Our public names over vector_quantize_pytorch, and diffusers where it has no codebook learned by gradient."""
