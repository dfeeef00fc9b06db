"""x"""
from torch import nn, Tensor
from jaxtyping import Float
class SiLU(nn.Module):
    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return input * input.sigmoid()
