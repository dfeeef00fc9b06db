"""Runs a gradient transformation of optax as a torch optimizer: tensors go over to jax and back at every step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch.optim import Optimizer

jax.config.update("jax_enable_x64", True)


class Functional(Optimizer):
    """A subclass returns the transformation that a group's settings make, and the names of its state in torch."""

    def rule(self, group):
        raise NotImplementedError

    def names(self, group):
        """Name in torch → name of the field in optax's states."""
        raise NotImplementedError

    def __setstate__(self, state):
        super().__setstate__(state)
        for group in self.param_groups:
            group.update(self.defaults | group)

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter, group):
        state, names = self.state[parameter], self.names(group)
        for name in names:
            state.setdefault(name, torch.zeros_like(parameter))
        if parameter.is_meta:  # nothing that jax could compute with
            return
        rule, theta = self.rule(group | {"lr": float(group["lr"])}), _over(parameter)
        given = {field: _over(state[name]) for name, field in names.items()}
        before = tuple(part._replace(**{f: given[f] for f in part._fields if f in given}) for part in rule.init(theta))
        gradient = _over(-parameter.grad if group["maximize"] else parameter.grad)
        update, after = rule.update(gradient, before, theta)
        parameter.copy_(_back(optax.apply_updates(theta, update)))
        for name, field in names.items():
            (value,) = [getattr(part, field) for part in after if field in part._fields]
            state[name].copy_(_back(value))


def _over(tensor):
    if tensor.dtype == torch.bfloat16:
        return jnp.asarray(tensor.float().numpy()).astype(jnp.bfloat16)
    return jnp.asarray(tensor.detach().numpy().copy())


def _back(array):
    wide = array.astype(jnp.float32) if array.dtype == jnp.bfloat16 else array
    return torch.from_numpy(np.array(wide))
