"""Monte Carlo dropout pass by pass, with torch.distributions' densities."""

import copy
import math
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from ..layers.dropout import Dropout


class MCOutput(NamedTuple):
    mean: Tensor
    variance: Tensor
    samples: Tensor


class MCDropout(nn.Module):
    def __init__(self, model, num_samples=50, tau=math.inf):
        super().__init__()
        self.model, self.num_samples, self.tau = model, num_samples, tau

    def forward(self, x):
        return self.model(x)

    def predict(self, x):
        return mc_predict(self.model, x, self.num_samples, self.tau)


def mc_predict(model, x, num_samples=50, tau=math.inf):
    with enable_dropout(model):
        samples = torch.stack([model(x) for _ in range(num_samples)])
    mean = samples.mean(0)
    return MCOutput(mean, (samples**2).mean(0) - mean**2 + tau**-1, samples)


@contextmanager
def enable_dropout(model):
    before = {name: module.training for name, module in model.named_modules()}
    fused = copy.copy(torch.backends.mha.get_fastpath_enabled())
    torch.backends.mha.set_fastpath_enabled(False)
    for module in model.modules():
        module.training = isinstance(module, (Dropout, nn.modules.dropout._DropoutNd))
    try:
        yield
    finally:
        for name, module in model.named_modules():
            module.training = before[name]
        torch.backends.mha.set_fastpath_enabled(fused)


def model_precision(p, length_scale, num_data, weight_decay):
    return length_scale**2 * (1 - p) / (2 * num_data * weight_decay)


def log_likelihood(samples, target, tau):
    flat = samples.reshape(*samples.shape[:2], math.prod(samples.shape[2:])).transpose(0, 1)
    gaussians = Normal(flat, tau**-0.5, validate_args=False)
    densities = gaussians.log_prob(target.reshape(len(target), 1, flat.shape[2])).sum(-1)
    return (densities.log_softmax(1) - densities).neg().mean(1) - math.log(flat.shape[1])


def _entropy(p):
    return -torch.xlogy(p, p).sum(-1)


def predictive_entropy(probabilities):
    return _entropy(probabilities.mean(0))


def expected_entropy(probabilities):
    return _entropy(probabilities).mean(0)


def mutual_information(probabilities):
    return torch.relu(predictive_entropy(probabilities) - expected_entropy(probabilities))
