"""mambapy's block, stepping through time; it discretizes by Euler's rule and carries its state in another way."""

import torch
from mambapy.mamba import MambaBlock as Block
from mambapy.mamba import MambaConfig


class MambaBlock(Block):
    def __init__(self, d_model, d_state=16, d_conv=4, expand=2, dt_rank=None, discretization="euler"):
        if discretization != "euler":
            raise NotImplementedError("mambapy knows Euler's rule alone")
        rank = "auto" if dt_rank is None else dt_rank
        super().__init__(MambaConfig(d_model, 1, rank, d_state, expand, d_conv, pscan=False))

    def forward(self, input, state=None):
        if state is not None:
            raise NotImplementedError("mambapy's state goes through step")
        return super().forward(input)

    def ssm(self, x, z):
        """As mambapy's, without its cast of A and D to float32, which float64 would not survive."""
        wide = torch.promote_types(x.dtype, torch.float32)
        sizes = [self.config.dt_rank, self.config.d_state, self.config.d_state]
        step, B, C = self.x_proj(x).split(sizes, -1)
        delta = torch.nn.functional.softplus(self.dt_proj(step))
        A = -torch.exp(self.A_log.to(wide))
        u, delta, B, C, D = (s.to(wide) for s in (x, delta, B, C, self.D))
        return self.selective_scan_seq(u, delta, A, B, C, D).to(x.dtype)
