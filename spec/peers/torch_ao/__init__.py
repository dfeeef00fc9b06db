"""Our public names over torch.ao.quantization and torch's quantized tensors."""
