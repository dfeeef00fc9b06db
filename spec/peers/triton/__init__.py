"""FlashAttention as Triton kernels, under Triton's interpreter where there is no GPU."""
