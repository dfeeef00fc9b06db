"""Pieces of generative models next to the same steps by torch.nn.functional."""

import torch
from torch import nn
from torch.nn import functional

from impl.models.cyclegan import ResnetGenerator
from impl.models.ddpm import ResidualBlock
from impl.models.glow import InvertibleConv1x1
from impl.models.latent_diffusion import SpatialTransformer
from impl.models.pixelcnn import MaskedConv2d
from impl.models.realnvp import AffineCoupling
from impl.models.stylegan import ModulatedConv2d
from impl.models.vqvae import VectorQuantizer
from impl.models.wgan_gp import gradient_penalty
from tools.bench import Pair


def _critic():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 1))


class _Penalty(nn.Module):
    def __init__(self):
        super().__init__()
        self.critic = _critic()

    def forward(self, real, fake):
        return gradient_penalty(self.critic, real, fake)


class _LibraryPenalty(_Penalty):
    def forward(self, real, fake):
        share = torch.rand(len(real), 1)
        between = (share * real + (1 - share) * fake).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.critic(between).sum(), between, create_graph=True)
        return (gradient.norm(dim=1) - 1).square().mean()


def _quantizer():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(256, 32)
    return lambda z: quantizer(z)[:2]


def _library_quantizer():
    codes = torch.randn(256, 32, requires_grad=True)

    def quantize(z):
        rows = z.movedim(1, -1).flatten(0, 2)
        indices = torch.cdist(rows.detach(), codes.detach()).argmin(1)
        found = functional.embedding(indices, codes)
        loss = functional.mse_loss(found, rows.detach()) + 0.25 * functional.mse_loss(rows, found.detach())
        return (rows + (found - rows).detach()).view(*z.shape[:1], *z.shape[2:], -1).movedim(-1, 1), loss

    return quantize


class _Masked(nn.Conv2d):
    def __init__(self):
        super().__init__(64, 64, 5, padding=2)
        mask = torch.zeros(5, 5)
        mask[:2], mask[2, :3] = 1, 1
        self.register_buffer("mask", mask)

    def forward(self, x):
        return functional.conv2d(x, self.weight * self.mask, self.bias, padding=2)


class _Modulated(nn.Module):
    """One convolution with groups, a group for each sample."""

    def __init__(self):
        super().__init__()
        self.weight, self.style = nn.Parameter(torch.randn(64, 64, 3, 3)), nn.Linear(64, 64)

    def forward(self, x, w):
        weight = self.weight * self.style(w)[:, None, :, None, None] / 24
        weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        y = functional.conv2d(x.flatten(0, 1)[None], weight.flatten(0, 1), padding=1, groups=len(x))
        return y.view_as(x)


class _Coupling(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.scale = _network(), nn.Parameter(torch.ones(256))
        self.register_buffer("mask", torch.arange(256) % 2)

    def forward(self, x):
        s, t = self.net(x * self.mask).chunk(2, dim=1)
        s, t = (1 - self.mask) * self.scale * s.tanh(), (1 - self.mask) * t
        return x * s.exp() + t, s.sum(1)


class _Mixing(nn.Module):
    """A dense 1×1 convolution and its determinant."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(48, 48)))

    def forward(self, x):
        log_det = torch.linalg.slogdet(self.weight).logabsdet * x.shape[2] * x.shape[3]
        return functional.conv2d(x, self.weight[:, :, None, None]), log_det.expand(len(x))


class _LibraryResidual(nn.Module):
    """DDPM's residual block of torch.nn's layers."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(32, 64), nn.GroupNorm(32, 64)
        self.conv1, self.conv2 = nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
        self.time = nn.Linear(256, 64)

    def forward(self, x, e):
        h = self.conv1(functional.silu(self.norm1(x))) + self.time(functional.silu(e))[:, :, None, None]
        return x + self.conv2(functional.silu(self.norm2(h)))


class _LibraryTransformer(nn.Module):
    """A spatial transformer of torch.nn's attentions."""

    def __init__(self):
        super().__init__()
        self.norm, self.input, self.output = nn.GroupNorm(32, 64), nn.Linear(64, 64), nn.Linear(64, 64)
        self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(3))
        self.own = nn.MultiheadAttention(64, 4, bias=False, batch_first=True)
        self.cross = nn.MultiheadAttention(64, 4, bias=False, kdim=48, vdim=48, batch_first=True)
        self.up, self.down = nn.Linear(64, 512), nn.Linear(256, 64)

    def forward(self, x, context):
        h = self.input(self.norm(x).flatten(2).mT)
        y = self.norms[0](h)
        h = h + self.own(y, y, y, need_weights=False)[0]
        h = h + self.cross(self.norms[1](h), context, context, need_weights=False)[0]
        gate, y = self.up(self.norms[2](h)).chunk(2, dim=-1)
        h = h + self.down(functional.gelu(gate) * y)
        return x + self.output(h).mT.unflatten(2, x.shape[2:])


def _residual_generator():
    """The layers of ResnetGenerator(3, 3, 16, 2) from torch.nn."""

    def normalized(layer, width):
        return [layer, nn.InstanceNorm2d(width), nn.ReLU()]

    def block():
        convolutions = (nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect") for _ in range(2))
        return _Residual(*normalized(next(convolutions), 64), next(convolutions), nn.InstanceNorm2d(64))

    layers = normalized(nn.Conv2d(3, 16, 7, padding=3, padding_mode="reflect"), 16)
    layers += normalized(nn.Conv2d(16, 32, 3, 2, 1), 32) + normalized(nn.Conv2d(32, 64, 3, 2, 1), 64)
    layers += [block(), block()]
    layers += normalized(nn.ConvTranspose2d(64, 32, 3, 2, 1, 1), 32)
    layers += normalized(nn.ConvTranspose2d(32, 16, 3, 2, 1, 1), 16)
    return nn.Sequential(*layers, nn.Conv2d(16, 3, 7, padding=3, padding_mode="reflect"), nn.Tanh())


class _Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def _network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 512))


def _pair(item, name, ours, theirs, *shapes):
    return Pair(item=item, name=name, ours=ours, theirs=theirs, inputs=lambda: tuple(torch.randn(s) for s in shapes))


PAIRS = [
    _pair("ddpm", "ResidualBlock", lambda: ResidualBlock(64, 64, 256), _LibraryResidual, (8, 64, 32, 32), (8, 256)),
    _pair("wgan-gp", "gradient_penalty", _Penalty, _LibraryPenalty, (256, 256), (256, 256)),
    _pair("vq-vae", "VectorQuantizer", _quantizer, _library_quantizer, (16, 32, 16, 16)),
    _pair("pixelcnn", "MaskedConv2d", lambda: MaskedConv2d(64, 64, 5), _Masked, (8, 64, 28, 28)),
    _pair("stylegan", "ModulatedConv2d", lambda: ModulatedConv2d(64, 64, 3, 64), _Modulated, (8, 64, 32, 32), (8, 64)),
    _pair(
        "latent-diffusion",
        "SpatialTransformer",
        lambda: SpatialTransformer(64, 4, 48),
        _LibraryTransformer,
        (8, 64, 16, 16),
        (8, 20, 48),
    ),
    _pair("cyclegan", "ResnetGenerator", lambda: ResnetGenerator(3, 3, 16, 2), _residual_generator, (4, 3, 64, 64)),
    _pair("glow", "InvertibleConv1x1", lambda: InvertibleConv1x1(48), _Mixing, (16, 48, 32, 32)),
    _pair(
        "realnvp",
        "AffineCoupling",
        lambda: AffineCoupling(torch.arange(256) % 2, _network()),
        _Coupling,
        (1024, 256),
    ),
]
