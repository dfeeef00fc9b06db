"""Cases of StyleGAN and StyleGAN2: layers, generators of 8 × 8 images and their discriminators."""

import torch
from torch import nn

from impl.models.stylegan import (
    AdaptiveInstanceNorm2d,
    MappingNetwork,
    ModulatedConv2d,
    NoiseInjection,
    PathLengthPenalty,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
    StyleGANDiscriminator,
    StyleGANGenerator,
    minibatch_stddev,
    r1_penalty,
)
from spec.cases import Bad, Case
from spec.contract import Contract, linear
from spec.laws import reseed

SMALL = {"z_dim": 5, "w_dim": 6, "resolution": 8, "channel_base": 24, "channel_max": 4, "num_layers": 2}
CRITIC = {"resolution": 8, "channel_base": 24, "channel_max": 4, "image_channels": 2}


class Styled(nn.Module):
    """A generator's synthesis network: styles → images, the first generator's with its fade-in half done."""

    def __init__(self, network, **options):
        super().__init__()
        self.network = network
        self.options = options

    def forward(self, ws):
        return self.network.synthesis(ws, **self.options)


class Faded(nn.Module):
    """A discriminator that is fading in its largest images."""

    def __init__(self, network, alpha: float):
        super().__init__()
        self.network = network
        self.alpha = alpha

    def forward(self, images):
        return self.network(images, alpha=self.alpha)


def generator(of, **changed):
    """A small generator whose noise has an effect."""
    reseed(0)
    network = of(**(SMALL | {"image_channels": 2} | changed))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("strength"):
                parameter.normal_()
    return network


def discriminator(of, **changed):
    reseed(0)
    return of(**(CRITIC | changed))


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer(of, *arguments, **options):
    def build():
        reseed(0)
        return of(*arguments, **options)

    return build


_COUPLED = {
    "batch_independent": "minibatch statistics couple the samples; a record with groups of 1 is asked",
    "batch_independent_in_eval": "minibatch statistics couple the samples, in evaluation as well",
}


# Of the networks' records: as few elements as show everything, for each costs the gradient check two evaluations.
TINY = {"z_dim": 1, "w_dim": 2, "channel_base": 16, "channel_max": 3, "image_channels": 1, "num_layers": 1}
TINY_CRITIC = {"channel_base": 16, "channel_max": 3, "image_channels": 1}

_LAYERS = "plain autograd through layers that have records; every element would cost two evaluations, 12 s in all"
_NOISE = {
    "works_under_autocast": "training takes noise in the dtype of the image; the records of `synthesis` are asked",
    "gradient_correct": _LAYERS,
}
_SYNTHESIS = {
    "gradient_correct": _LAYERS,
    "works_under_autocast": "rounding to bfloat16 moves activations across their kink; the layers are asked",
    "from_scratch": "the class that is called is defined here; the generator has a record of its own",
    "every_parameter_receives_gradient": "the mapping network precedes the styles",
}


def _bad_layers(build, **calls):
    return {name: Bad(call=lambda given=given: build()(*given)) for name, given in calls.items()}


def _sizes(of, common):
    return {
        "a resolution of 2": Bad(call=lambda: of(**(common | {"resolution": 2})), mentions=("2",)),
        "a resolution of 12": Bad(call=lambda: of(**(common | {"resolution": 12})), mentions=("12",)),
        "no channel at 8": Bad(call=lambda: of(**(common | {"channel_base": 7})), mentions=("7",)),
    }


def _generator_bad(of):
    return _sizes(of, SMALL) | {
        "z of another size": Bad(call=lambda: generator(of)(randn(3, 6))),
        "no sample in training": Bad(call=lambda: generator(of)(randn(0, 5))),
        "odd or missing styles": Bad(call=lambda: generator(of).synthesis(randn(3, 3, 6))),
        "too many styles": Bad(call=lambda: generator(of).synthesis(randn(3, 6, 6))),
        "another noise_mode": Bad(call=lambda: generator(of)(randn(3, 5), noise_mode="fixed"), mentions=("fixed",)),
        "a negative cutoff": Bad(call=lambda: generator(of).styles(randn(3, 5), 0.5, -1), mentions=("-1",)),
        "more styles than layers": Bad(call=lambda: generator(of).styles(randn(3, 5), num_ws=5), mentions=("5",)),
        "no style": Bad(call=lambda: generator(of).styles(randn(3, 5), num_ws=0), mentions=("0",)),
    }


def _critic_bad(of):
    return _sizes(of, CRITIC) | {
        "images of other channels": Bad(call=lambda: discriminator(of)(randn(4, 3, 8, 8))),
        "images that are too large": Bad(call=lambda: discriminator(of)(randn(4, 2, 16, 16))),
        "images that are not square": Bad(call=lambda: discriminator(of)(randn(4, 2, 8, 4))),
        "5 samples in groups of 4": Bad(call=lambda: discriminator(of)(randn(5, 2, 8, 8)), mentions=("5",)),
    }


_mapping = layer(MappingNetwork, 5, 6, num_layers=3, lr_multiplier=0.1)
_adain = layer(AdaptiveInstanceNorm2d, 3, 4, eps=0.1)
_modulated = layer(ModulatedConv2d, 3, 4, 3, 5, eps=0.1)

CASES = [
    Case(
        item="stylegan",
        name="MappingNetwork",
        build=_mapping,
        inputs=lambda: (randn(2, 5),),
        bad=_bad_layers(_mapping, wide=(randn(2, 6),)),
    ),
    Case(
        item="stylegan",
        name="AdaptiveInstanceNorm2d",
        build=_adain,
        inputs=lambda: (randn(2, 3, 5, 6), randn(2, 4, seed=1)),
        bad=_bad_layers(_adain, channels=(randn(2, 4, 5, 6), randn(2, 4)), styles=(randn(2, 3, 5, 6), randn(2, 3))),
    ),
    Case(
        item="stylegan",
        name="ModulatedConv2d",
        build=_modulated,
        inputs=lambda: (randn(2, 3, 6, 7), randn(2, 5, seed=1)),
        bad=_bad_layers(_modulated, channels=(randn(2, 4, 6, 7), randn(2, 5)), styles=(randn(2, 3, 6, 7), randn(2, 4))),
    ),
    Case(
        item="stylegan",
        name="ModulatedConv2d, upsampling, not demodulated",
        build=layer(ModulatedConv2d, 2, 3, 5, 4, demodulate=False, up=2),
        inputs=lambda: (randn(2, 2, 6, 5), randn(2, 4, seed=1)),
    ),
    Case(
        item="stylegan",
        name="NoiseInjection",
        build=layer(NoiseInjection, 5, channels=3),
        inputs=lambda: (randn(2, 3, 5, 5),),
        bad=_bad_layers(layer(NoiseInjection, 5, channels=3), size=(randn(2, 3, 5, 6),), channels=(randn(2, 4, 5, 5),)),
    ),
    Case(
        item="stylegan",
        name="StyleGANGenerator",
        build=lambda: generator(StyleGANGenerator, resolution=4),
        inputs=lambda: (randn(3, 5),),
        bad=_generator_bad(StyleGANGenerator)
        | {
            "a resolution that it has not": Bad(
                call=lambda: generator(StyleGANGenerator)(randn(3, 5), resolution=16), mentions=("16",)
            ),
        },
        exempt=_NOISE,
    ),
    Case(
        item="stylegan",
        name="StyleGANGenerator.synthesis, fading in",
        build=lambda: Styled(generator(StyleGANGenerator, **TINY), noise_mode="const", alpha=0.3),
        inputs=lambda: (randn(3, 4, 2),),
        exempt=_SYNTHESIS,
    ),
    Case(
        item="stylegan",
        name="StyleGAN2Generator.synthesis",
        build=lambda: Styled(generator(StyleGAN2Generator, **TINY), noise_mode="const"),
        inputs=lambda: (randn(3, 4, 2),),
        exempt=_SYNTHESIS,
    ),
    Case(
        item="stylegan",
        name="StyleGAN2Generator",
        build=lambda: generator(StyleGAN2Generator),
        inputs=lambda: (randn(3, 5),),
        bad=_generator_bad(StyleGAN2Generator),
        exempt=_NOISE,
    ),
    Case(
        item="stylegan",
        name="StyleGANDiscriminator",
        build=lambda: discriminator(StyleGANDiscriminator, **(TINY_CRITIC | {"resolution": 4})),
        inputs=lambda: (randn(2, 1, 4, 4),),
        bad=_critic_bad(StyleGANDiscriminator),
        exempt=_COUPLED,
    ),
    Case(
        item="stylegan",
        name="StyleGANDiscriminator, fading in, groups of 1",
        build=lambda: Faded(discriminator(StyleGANDiscriminator, group_size=1), alpha=0.3),
        inputs=lambda: (randn(3, 2, 8, 8),),
        exempt={
            "from_scratch": "the class that is called is defined here; the discriminator has a record of its own",
            "gradient_correct": _LAYERS,
        },
    ),
    Case(
        item="stylegan",
        name="StyleGAN2Discriminator",
        build=lambda: discriminator(StyleGAN2Discriminator, **TINY_CRITIC),
        inputs=lambda: (randn(2, 1, 8, 8),),
        bad=_critic_bad(StyleGAN2Discriminator),
        exempt=_COUPLED | {"gradient_correct": _LAYERS},
    ),
    Case(
        item="stylegan",
        name="minibatch_stddev",
        build=lambda: minibatch_stddev,
        inputs=lambda: (randn(2, 3, 4, 5),),
        exempt=_COUPLED,
        is_function=True,
        bad={"6 samples in groups of 4": Bad(call=lambda: minibatch_stddev(randn(6, 1, 2, 2)), mentions=("6",))},
    ),
]


def _styles(**arguments):
    return generator(StyleGAN2Generator).styles(randn(3, 5), **arguments)


def _synthesis(**arguments):
    return generator(StyleGANGenerator).synthesis(randn(3, 4, 6), **arguments)


def _logits(**arguments):
    return discriminator(StyleGANDiscriminator)(randn(4, 2, 8, 8), **arguments)


def _r1(**arguments):
    return r1_penalty(discriminator(StyleGANDiscriminator), randn(4, 2, 8, 8), **arguments)


def _minibatch(**arguments):
    return minibatch_stddev(randn(4, 3, 2, 5), **arguments)


def _noised(**arguments):
    reseed(0)
    return NoiseInjection(5)(randn(2, 3, 5, 5), **arguments)


_CHANNELS = "min(channel_base // {}, channel_max)"
_C4, _C8 = _CHANNELS.format(4), _CHANNELS.format(8)


def _conv(name, outputs, inputs, kernel, bias=True):
    state = {f"{name}.weight": f"({outputs}, {inputs}, {kernel}, {kernel})"}
    return state | ({f"{name}.bias": f"({outputs},)"} if bias else {})


def _mapping_state(prefix):
    return linear(f"{prefix}layers.0", "w_dim", "z_dim") | linear(f"{prefix}layers.1", "w_dim", "w_dim")


def _generator_state():
    return {"const": f"({_C4}, 4, 4)", "w_avg": "(w_dim,)"} | _mapping_state("mapping.")


def _first_generator():
    state = _generator_state()
    for n, (before, c, size) in enumerate([(None, _C4, 4), (_C4, _C4, 4), (_C4, _C8, 8), (_C8, _C8, 8)]):
        if before:
            state |= _conv(f"layers.{n}.conv", c, before, 3, bias=False)
        state |= {f"layers.{n}.bias": f"({c},)", f"layers.{n}.noise.strength": f"({c},)"}
        state |= {f"layers.{n}.noise.image": f"({size}, {size})"}
        state |= linear(f"layers.{n}.norm.style", f"2 * {c}", "w_dim")
    return state | _conv("to_rgb.0", "image_channels", _C4, 1) | _conv("to_rgb.1", "image_channels", _C8, 1)


def _second_generator():
    state = _generator_state()
    for n, (before, c, size) in enumerate([(_C4, _C4, 4), (_C4, _C8, 8), (_C8, _C8, 8)]):
        state |= _conv(f"layers.{n}.conv", c, before, 3, bias=False)
        state |= linear(f"layers.{n}.conv.style", before, "w_dim")
        state |= {f"layers.{n}.bias": f"({c},)", f"layers.{n}.noise.strength": "(1,)"}
        state |= {f"layers.{n}.noise.image": f"({size}, {size})"}
    for n, c in enumerate([_C4, _C8]):
        state |= _conv(f"to_rgb.{n}.conv", "image_channels", c, 1, bias=False)
        state |= linear(f"to_rgb.{n}.conv.style", c, "w_dim") | {f"to_rgb.{n}.bias": "(image_channels,)"}
    return state


def _critic_state(extra):
    state = extra | _conv("blocks.0.conv0", _C8, _C8, 3) | _conv("blocks.0.conv1", _C4, _C8, 3)
    state |= _conv("head.conv", _C4, f"{_C4} + 1", 3)
    return state | linear("head.linear", _C4, f"16 * {_C4}") | linear("head.out", "1", _C4)


_RANGES = {"z_dim": "int >= 1", "w_dim": "int >= 1", "channel_max": "int >= 1", "image_channels": "int >= 1"}
_GENERATOR_RANGES = _RANGES | {"num_layers": "int >= 1", "mixing_prob": "[0, 1]", "w_avg_beta": "[0, 1]"}
_CRITIC_RANGES = {"channel_max": "int >= 1", "image_channels": "int >= 1", "group_size": "int >= 1"}
_ATTRIBUTES = {
    "num_ws": "2 log₂(resolution) − 2, how many styles the full resolution has",
    "mapping": "the MappingNetwork",
    "w_avg": "w̄, from 0",
}
_REMEMBERS = "w̄, which `styles` moves in training"

CONTRACTS = [
    Contract(
        item="stylegan",
        name="MappingNetwork",
        of=MappingNetwork,
        calls=({"z_dim": 3, "w_dim": 4, "num_layers": 2},),
        ranges={"z_dim": "int >= 1", "w_dim": "int >= 1", "lr_multiplier": "(0, inf)"},
        state=_mapping_state(""),
    ),
    Contract(
        item="stylegan",
        name="AdaptiveInstanceNorm2d",
        of=AdaptiveInstanceNorm2d,
        calls=({"num_features": 3, "w_dim": 4},),
        ranges={"num_features": "int >= 1", "w_dim": "int >= 1", "eps": "[0, inf]"},
        state=linear("style", "2 * num_features", "w_dim"),
    ),
    Contract(
        item="stylegan",
        name="ModulatedConv2d",
        of=ModulatedConv2d,
        calls=({"in_channels": 3, "out_channels": 4, "kernel_size": 3, "w_dim": 5},),
        ranges={
            "in_channels": "int >= 1",
            "out_channels": "int >= 1",
            "kernel_size": "odd >= 1",
            "w_dim": "int >= 1",
            "up": "int in [1, 2]",
            "eps": "[0, inf]",
        },
        state={"weight": "(out_channels, in_channels, kernel_size, kernel_size)"}
        | linear("style", "in_channels", "w_dim"),
    ),
    Contract(
        item="stylegan",
        name="NoiseInjection",
        of=NoiseInjection,
        calls=({"size": 5, "channels": 3},),
        ranges={"size": "int >= 1", "channels": "int >= 1"},
        state={"strength": "(channels,)", "image": "(size, size)"},
    ),
    Contract(
        item="stylegan",
        name="NoiseInjection.forward",
        of=_noised,
        ranges={"noise_mode": "'random', 'const', 'none' or None"},
    ),
    Contract(
        item="stylegan",
        name="StyleGANGenerator",
        of=StyleGANGenerator,
        calls=(SMALL,),
        ranges=_GENERATOR_RANGES,
        state=_first_generator(),
        attributes=_ATTRIBUTES,
        remembers=_REMEMBERS,
    ),
    Contract(
        item="stylegan",
        name="StyleGAN2Generator",
        of=StyleGAN2Generator,
        calls=(SMALL,),
        ranges=_GENERATOR_RANGES,
        state=_second_generator(),
        attributes=_ATTRIBUTES,
        remembers=_REMEMBERS,
    ),
    Contract(
        item="stylegan",
        name="StyleGAN2Generator.styles",
        of=_styles,
        ranges={"truncation_psi": "(-inf, inf)", "truncation_cutoff": "int >= 0 or None", "num_ws": "int in [1, 4]"},
    ),
    Contract(
        item="stylegan",
        name="StyleGANGenerator.synthesis",
        of=_synthesis,
        ranges={"alpha": "[0, 1]", "noise_mode": "'random', 'const', 'none' or None"},
    ),
    Contract(
        item="stylegan",
        name="StyleGANDiscriminator",
        of=StyleGANDiscriminator,
        calls=(CRITIC,),
        ranges=_CRITIC_RANGES,
        state=_critic_state(
            _conv("from_rgb.0", _C4, "image_channels", 1) | _conv("from_rgb.1", _C8, "image_channels", 1)
        ),
    ),
    Contract(
        item="stylegan",
        name="StyleGANDiscriminator.forward",
        of=_logits,
        ranges={"alpha": "[0, 1]"},
    ),
    Contract(
        item="stylegan",
        name="StyleGAN2Discriminator",
        of=StyleGAN2Discriminator,
        calls=(CRITIC,),
        ranges=_CRITIC_RANGES,
        state=_critic_state(_conv("from_rgb", _C8, "image_channels", 1) | _conv("skips.0", _C4, _C8, 1, bias=False)),
    ),
    Contract(item="stylegan", name="minibatch_stddev", of=_minibatch, ranges={"group_size": "int >= 1"}),
    Contract(item="stylegan", name="r1_penalty", of=_r1, ranges={"gamma": "[0, inf]", "interval": "int >= 1"}),
    Contract(
        item="stylegan",
        name="PathLengthPenalty",
        of=PathLengthPenalty,
        ranges={"decay": "[0, 1)"},
        state={"mean": "()"},
        attributes={"mean": "a, the moving average of path lengths"},
        remembers="a",
    ),
]
