"""Quantization of torch.ao."""
