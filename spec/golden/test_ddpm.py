"""Golden values of DDPM.  Ho, Jain & Abbeel 2020, arXiv:2006.11239."""

import pytest
import torch

from impl.models.ddpm import DDPMUNet, GaussianDiffusion, beta_schedule
from spec import laws
from spec.cases.ddpm import PREDICTS
from spec.golden import load

pytestmark = pytest.mark.item("ddpm")
RESIDUAL = {"norm1": "norm1", "conv1": "conv1", "time": "time_emb_proj", "norm2": "norm2", "conv2": "conv2"}


def renamed(golden, prefix, names):
    """The library's layers under our names, e.g. {"first": "conv_in"}."""
    kinds = ("weight", "bias")
    return {f"{our}.{kind}": golden[f"{prefix}{their}.{kind}"] for our, their in names.items() for kind in kinds}


def residuals(ours, theirs, shortcut):
    found = {f"{ours}.{our}": f"{theirs}.{their}" for our, their in RESIDUAL.items()}
    return found | ({f"{ours}.shortcut": f"{theirs}.conv_shortcut"} if shortcut else {})


def attention(golden, ours, theirs, prefix="unet."):
    state = renamed(golden, prefix, {f"{ours}.norm": f"{theirs}.group_norm"})
    state |= renamed(golden, prefix, {f"{ours}.attention.out_proj": f"{theirs}.to_out.0"})
    for kind in ("weight", "bias"):
        three = [golden[f"{prefix}{theirs}.to_{letter}.{kind}"] for letter in "qkv"]
        state[f"{ours}.attention.in_proj_{kind}"] = torch.cat(three)
    return state


def network(golden, prefix):
    """The recipe's weights of a network of two sizes, named as in diffusers, under our names, but for attention."""
    names = {"time1": "time_embedding.linear_1", "time2": "time_embedding.linear_2", "first": "conv_in"}
    names |= {"norm": "conv_norm_out", "last": "conv_out"}
    names |= {"down.0.resize": "down_blocks.0.downsamplers.0.conv", "up.0.resize": "up_blocks.0.upsamplers.0.conv"}
    names |= residuals("down.0.blocks.0", "down_blocks.0.resnets.0", shortcut=False)
    names |= residuals("down.1.blocks.0", "down_blocks.1.resnets.0", shortcut=True)
    for number in range(2):
        names |= residuals(f"middle{number + 1}", f"mid_block.resnets.{number}", shortcut=False)
        names |= residuals(f"up.0.blocks.{number}", f"up_blocks.0.resnets.{number}", shortcut=True)
        names |= residuals(f"up.1.blocks.{number}", f"up_blocks.1.resnets.{number}", shortcut=True)
    return renamed(golden, prefix, names)


def state_of(golden):
    state = network(golden, "unet.") | attention(golden, "down.1.attentions.0", "down_blocks.1.attentions.0")
    state |= attention(golden, "middle_attention", "mid_block.attentions.0")
    for number in range(2):
        state |= attention(golden, f"up.0.attentions.{number}", f"up_blocks.0.attentions.{number}")
    return state


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_schedules_are_those_of_diffusers(name):
    """ᾱ of 1000 steps at seven times.

    Source: Ho et al. 2020, §4; Nichol & Dhariwal 2021, eq. 17; diffusers' DDPMScheduler, in float32.
    """
    found = GaussianDiffusion(beta_schedule(name)).alpha_bars[[0, 1, 249, 499, 749, 998, 999]]
    load("ddpm").check(f"{name}_bars", found)


def test_published_coefficients():
    """ᾱ, β̃ and the coefficients of eq. 7 at t = 500 of the linear schedule; β and ᾱ of the cosine; L_T.

    Source: Ho et al. 2020, §4 and eq. 5 to 7: L_T of about 1e-5 bits a dimension; evaluated in float64.
    """
    process = GaussianDiffusion(beta_schedule("linear"))
    one, zero = (torch.tensor([[v]], dtype=torch.float64) for v in (1.0, 0.0))
    at = torch.tensor([499])
    found = torch.stack(
        [
            process.alpha_bars[499],
            process.alpha_bars[999],
            process.posterior(one, zero, torch.tensor([1]))[1][0],
            process.posterior(one, zero, at)[1][0],
            process.posterior(one, zero, at)[0][0, 0],
            process.posterior(zero, one, at)[0][0, 0],
            process.prior_kl(one)[0] / torch.log(torch.tensor(2.0).double()),
        ]
    )
    expected = [0.07858724288177824, 4.035829765375676e-05, 5.4531876613e-05, 0.010031355414613688]
    expected += [0.00307007111426, 0.99410667021, 2.91e-5]
    published = torch.tensor(expected[:-1], dtype=torch.float64)
    laws.assert_close(found[:-1], published, rtol=1e-9, because="printed with eleven digits")
    assert abs(found[-1] - expected[-1]) < 1e-7, f"expected 2.91e-5 bits, found {found[-1]}"
    cosine = beta_schedule("cosine")[[0, 499, 998, 999]].tolist()
    for a, b in zip(cosine, (4.128422482196914e-05, 0.0031458862304780677, 0.7499993929, 0.999)):
        assert abs(a / b - 1) < 1e-9, f"expected {b}, found {a}"
    bars = GaussianDiffusion(beta_schedule("cosine")).alpha_bars[[499, 999]].tolist()
    assert abs(bars[0] - 0.4938435904406382) < 1e-12 and abs(bars[1] / 2.42877e-09 - 1) < 1e-5, f"found {bars}"


@pytest.mark.parametrize("predicts", PREDICTS)
@pytest.mark.parametrize("t", [1, 500, 980])
def test_steps_are_those_of_diffusers(predicts, t):
    """A DDIM step of 50 with η = 0.3, and the mean of an ancestral step, at three times.

    Source: Ho et al. 2020, eq. 7; Song et al. 2020, eq. 12 and 16; diffusers' DDIMScheduler and DDPMScheduler.
    """
    golden = load("ddpm")
    process = GaussianDiffusion(beta_schedule("linear"), predicts, "small")
    x, prediction, noise = golden["x"], golden["prediction"], golden["noise"]
    at, before = torch.full((2,), t), torch.full((2,), max(t - 20, -1))
    golden.check(f"ddim_{predicts}_{t}", process.ddim_step(x, at, before, prediction, 0.3, noise))
    golden.check(f"mean_{predicts}_{t}", process.step(x, at, prediction, torch.zeros_like(x)))


def test_network_gives_the_numbers_of_diffusers():
    """The prediction of a network of two sizes with attention, and the gradient of its squares to the images.

    Source: Ho et al. 2020, appendix B; diffusers' UNet2DModel with DDPM's settings, its sines in float64.
    """
    golden = load("ddpm")
    model = DDPMUNet(3, None, 4, (1, 2), 1, (1,), groups=2, embed_time=sines).double().eval()
    model.load_state_dict(state_of(golden))
    images = golden["images"].requires_grad_()
    found = model(images, golden["times"].long())
    golden.check("predicted", found)
    golden.check("gradient", torch.autograd.grad(found.square().sum(), images)[0])


def sines(t, width):
    """DDPM's embedding of width 4 in float64."""
    assert width == 4
    angles = t.double()[:, None] * torch.tensor([1.0, 1e-4], dtype=torch.float64)
    return torch.cat([angles.sin(), angles.cos()], 1)


@pytest.mark.parametrize(
    ("mults", "levels", "expected"), [((1, 2, 2, 2), (1,), 35_746_307), ((1, 1, 2, 2, 4, 4), (4,), 113_673_219)]
)
def test_published_sizes(mults, levels, expected):
    """The network for CIFAR-10 has 35.7 million parameters, that for images of 256² 114 million.

    Source: Ho et al. 2020, appendix B; exact numbers of the released models.
    """
    with torch.device("meta"):
        model = DDPMUNet(channel_mults=mults, attention_levels=levels)
    found = sum(p.numel() for p in model.parameters())
    assert found == expected, f"expected {expected} parameters, found {found}"
