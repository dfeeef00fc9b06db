"""Monte Carlo dropout.  Gal & Ghahramani 2015, arXiv:1506.02142."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from impl.layers.dropout import Dropout
from impl.models.mc_dropout import (
    MCDropout,
    enable_dropout,
    expected_entropy,
    log_likelihood,
    mc_predict,
    model_precision,
    mutual_information,
    predictive_entropy,
)
from spec import cost, laws
from spec.cases.mc_dropout import network
from spec.strategies import floats, seeds

pytestmark = pytest.mark.item("mc-dropout")

both_dropouts = pytest.mark.parametrize("dropout", [Dropout, nn.Dropout], ids=["ours", "torch's"])


def inputs(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def probabilities(seed, samples=6, batch=3, classes=4):
    return (2 * inputs(samples, batch, classes, seed=seed)).softmax(-1)


def mixed_net(dropout=Dropout):
    """Batch norm between two dropouts, with statistics that differ from any batch's."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(5, 6), dropout(0.4), nn.BatchNorm1d(6), nn.Sequential(nn.Tanh(), dropout(0.2))
    ).double()
    net[2].running_mean.copy_(inputs(6))
    net[2].running_var.copy_(inputs(6).exp())
    return net


# ---------------------------------------------------------------------------------------------- what is switched


@pytest.mark.states("dependence")
@both_dropouts
def test_dropout_alone_is_random(dropout):
    """Between the dropouts everything evaluates: batch norm normalizes by its running statistics and leaves them alone.

    The passes of a net whose dropouts have p = 0 are its evaluation, whatever mode it was in.

    Source: Gal & Ghahramani 2015, §4: dropout at test time, nothing else of training.
    """
    net, x = mixed_net(dropout), inputs(3, 5)
    before = {name: b.clone() for name, b in net.named_buffers()}
    assert mc_predict(net.train(), x, 4).variance.max() > 0, "expected samples that differ"
    for name, buffer in net.named_buffers():
        laws.assert_same(buffer, before[name], what=name)
    for module in net.modules():
        if hasattr(module, "p"):
            module.p = 0.0
    output = mc_predict(net.train(), x, 4)
    laws.assert_close(output.samples, net.eval()(x).detach().expand(4, 3, 6))


@both_dropouts
@pytest.mark.parametrize("fails", [False, True])
def test_every_module_gets_its_own_mode_back(dropout, fails):
    """After the block, or an error in it, each submodule is in the mode that it was in: a frozen batch norm stays so.

    Source: the contract of context managers; evaluation in mid-training must not change the run.
    """
    net = mixed_net(dropout).train()
    net[2].eval()
    net[3][1].eval()
    modes = [module.training for module in net.modules()]
    inside = []
    try:
        with enable_dropout(net):
            inside = [module.training for module in net.modules()]
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert inside == [isinstance(module, dropout) for module in net.modules()]
    assert [module.training for module in net.modules()] == modes


def test_modes_come_back_after_a_failing_prediction():
    """A forward pass that raises inside `predict` leaves no module in another mode.

    Source: the contract of torch.nn.Module; one bad batch must not leave dropout on.
    """
    model = MCDropout(mixed_net()).eval()
    with pytest.raises(RuntimeError):
        model.predict(inputs(3, 4))
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(
    "name", ["Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout"]
)
def test_torchs_dropouts_are_found(name):
    """Every dropout of torch.nn is found, also deep inside a model and where a subclass has another name.

    Source: the contract of torch.nn: they are the modules whose training mode samples masks.
    """
    kind = getattr(nn, name)
    inner = type("Renamed", (kind,), {})(0.5)
    net = nn.ModuleDict({"deep": nn.Sequential(nn.Tanh(), inner)})
    net.forward = lambda x: net["deep"](x)
    x = inputs(2, 3, 4, 5, 6) if name.endswith("3d") else inputs(2, 3, 4, 5) if name.endswith("2d") else inputs(2, 3, 4)
    assert mc_predict(net.eval(), x, 5).variance.max() > 0, f"expected samples of {name}"


def test_fused_transformer_layers_drop_too():
    """A torch.nn.TransformerEncoderLayer in evaluation is random without gradients, as it is with them.

    In that mode torch takes a fused path that has no dropout in it: the variance would be zero.

    Source: torch.nn.TransformerEncoderLayer's documentation, "Fast path".  Convention: switched off meanwhile.
    """
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.3, batch_first=True).eval()
    x = inputs(2, 3, 6).float()
    torch.backends.mha.set_fastpath_enabled(True)
    with torch.no_grad():
        found = mc_predict(layer, x, 8).variance.mean()
    assert torch.backends.mha.get_fastpath_enabled(), "expected the fused path on again"
    assert found > 1e-3, f"expected the variance of four dropouts, found {found:.3g}"


def test_forward_is_the_networks_own():
    """`MCDropout(model)(x)` is model(x): a sample in training, in evaluation the network with its weights averaged.

    Source: Gal & Ghahramani 2015, §2: standard dropout; `predict` is what the paper adds.
    """
    net, x = network(Dropout).double(), inputs(3, 5)
    model = MCDropout(net, num_samples=3).eval()
    expected = net[3](torch.tanh(x @ net[0].weight.T + net[0].bias))
    laws.assert_close(model(x), expected.detach())
    torch.manual_seed(0)
    draw = model.train()(x)
    laws.assert_differs(draw, expected, by=0.01)
    assert [n for n, _ in model.named_parameters()][0] == "model.0.weight"


# ---------------------------------------------------------------------------------------------- the samples


@given(p=floats(0.05, 0.95), seed=seeds())
def test_what_is_kept_is_scaled(p, seed):
    """Each element of each sample is 0 or x/(1 − p): the mean over masks is x, and its gradient is the same mask.

    Source: Srivastava et al. 2014, JMLR 15, §10.  Convention: scaled in training, p the probability to drop.
    """
    torch.manual_seed(seed)
    x = inputs(7, 9, seed=seed).requires_grad_()
    y = MCDropout(Dropout(p)).train()(x)
    kept = y != 0
    laws.assert_close(y, torch.where(kept, x / (1 - p), 0 * x))
    (gradient,) = torch.autograd.grad(y, x, torch.full_like(y, 3.0))
    laws.assert_close(gradient, kept.double() * 3 / (1 - p))


@pytest.mark.parametrize("p", [0.1, 0.3, 0.8])
def test_a_share_of_p_is_dropped(p):
    """Of 40 000 elements a share p is zero, within 4.5 standard errors; and evaluation drops none.

    Source: Srivastava et al. 2014, §4: r ~ Bernoulli.  False alarms: 7 in a million.
    """
    torch.manual_seed(0)
    samples = mc_predict(Dropout(p), inputs(100, 40), 10).samples
    share = (samples == 0).double().mean().item()
    error = math.sqrt(p * (1 - p) / samples.numel())
    assert abs(share - p) < 4.5 * error, f"expected {p} within {4.5 * error:.4f}, found {share:.4f}"
    laws.assert_same(MCDropout(Dropout(p)).eval()(inputs(3, 4)), inputs(3, 4))


@pytest.mark.states("limiting case")
def test_the_ends_of_p():
    """p = 0 changes nothing and uses no randomness; p = 1 leaves zeros and no NaN, in the gradient neither.

    Source: Srivastava et al. 2014, §4.  Convention: as torch.nn.Dropout; its p is 0.5 if not given.
    """
    x = inputs(3, 4).requires_grad_()
    before = torch.get_rng_state()
    laws.assert_same(MCDropout(Dropout(0.0)).train()(x), x)
    assert torch.equal(torch.get_rng_state(), before), "expected no random numbers at p = 0"
    y = MCDropout(Dropout(1)).train()(x)
    laws.assert_same(y, torch.zeros(3, 4, dtype=torch.float64))
    laws.assert_same(torch.autograd.grad(y.sum(), x)[0], torch.zeros(3, 4, dtype=torch.float64))
    torch.manual_seed(0)
    values = MCDropout(Dropout()).train()(inputs(50, 40)) / inputs(50, 40)
    laws.assert_close(values.unique(), torch.tensor([0.0, 2.0], dtype=torch.float64))
    laws.assert_close(
        values.mean(), torch.tensor(1.0).double(), rtol=0.1, because="4.5 standard errors of 2000 samples"
    )


@pytest.mark.states("dependence")
@both_dropouts
def test_every_row_of_every_pass_has_its_own_mask(dropout):
    """Two equal rows of a batch, and two passes, are uncorrelated; so are neighbouring features.

    4000 passes: a correlation has a standard error of 0.016; limit 0.07. With one mask for the batch it is 1.

    Source: Gal & Ghahramani 2015, §4: T stochastic passes.  Convention: masks for each row, not for the batch.
    """
    torch.manual_seed(0)
    x = torch.tensor([1.5, -0.7, 2.0], dtype=torch.float64).expand(2, 3)
    samples = mc_predict(dropout(0.4), x, 4000).samples
    draws = torch.cat([samples.flatten(1), samples.flatten(1).roll(1, dims=0)], dim=1)
    correlation = torch.corrcoef(draws.T) - torch.eye(12, dtype=torch.float64)
    assert correlation.abs().max() < 0.07, f"expected independent masks, found {correlation.abs().max():.3f}"


@pytest.mark.parametrize(("p", "seed"), [(0.3, 0), (0.3, 1), (0.6, 2)])
def test_moments_of_a_linear_model(p, seed):
    """y = w·dropout(x): E = Σ w_i x_i and Var = p/(1−p) Σ (w_i x_i)², with τ⁻¹ on top.

    40 000 passes: standard errors are σ/200 for the mean and about 0.7 % for the variance; limits 4.5 σ/200 and 3.5 %.
    With p and 1 − p exchanged the variance is 0.18 of it at p = 0.3.

    Source: Gal & Ghahramani 2015, eq. 6 and §4, for the model whose moments are known.
    """
    torch.manual_seed(seed)
    x, net = inputs(2, 30, seed=seed), nn.Sequential(Dropout(p), nn.Linear(30, 1, bias=False)).double()
    with torch.no_grad():
        output = mc_predict(net, x, 40_000, tau=0.5)
        terms = (net[1].weight * x).detach()
    variance = p / (1 - p) * terms.square().sum(1, keepdim=True)
    gap = (output.mean - terms.sum(1, keepdim=True)).abs() / variance.sqrt() * 200
    assert gap.max() < 4.5, f"expected the mean within 4.5 standard errors, found {gap.max():.1f}"
    laws.assert_close(output.variance - 2.0, variance, rtol=0.035, because="4.5 standard errors of a variance")


def test_error_falls_with_the_root_of_the_samples():
    """Four times as many passes halve the error of the mean: 2 within 15 %, over 2000 independent estimates.

    Measured: 1.98 to 2.05 on 4 seeds; 1.0 with one mask for all passes.

    Source: Gal & Ghahramani 2015, eq. 6: a Monte Carlo mean of independent samples.
    """
    torch.manual_seed(0)
    x = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64).expand(500, 4)
    few, many = ((mc_predict(Dropout(0.5), x, t).mean - x).square().mean().sqrt() for t in (10, 40))
    laws.assert_close(few / many, torch.tensor(2.0).double(), rtol=0.15, because="standard error of a ratio: 2 %")


# ---------------------------------------------------------------------------------------------- the moments


@given(samples=st.integers(1, 6), tau=floats(0.1, 100), seed=seeds())
def test_mean_and_variance_are_those_of_the_passes(samples, tau, seed):
    """Mean 1/T Σ ŷ_t, variance τ⁻¹ + 1/T Σ ŷ_t² − mean², over the passes that are returned with them.

    Source: Gal & Ghahramani 2015, eq. 6 and §4.  Convention: divided by T; the diagonal of the matrix.
    """
    torch.manual_seed(seed)
    mean, variance, drawn = mc_predict(network(Dropout).double(), inputs(3, 5), samples, tau)
    assert drawn.shape == (samples, 3, 4), f"expected shape ({samples}, 3, 4), found {tuple(drawn.shape)}"
    laws.assert_close(mean, sum(drawn) / samples)
    laws.assert_close(variance, 1 / tau + sum(drawn**2) / samples - (sum(drawn) / samples) ** 2)


@pytest.mark.states("limiting case")
def test_without_dropout_there_is_the_noise_alone():
    """p = 0: every pass is the network's, and the variance is τ⁻¹; by default τ is infinite and the variance zero.

    Source: Gal & Ghahramani 2015, §4.
    """
    net, x = network(Dropout, p=0.0).double(), inputs(3, 5)
    expected = net.eval()(x).detach()
    for tau, variance in ((4.0, 0.25), (None, 0.0)):
        model = MCDropout(net, 4) if tau is None else MCDropout(net, 4, tau)
        output = model.predict(x)
        laws.assert_close(output.mean, expected)
        laws.assert_close(output.variance, torch.full((3, 4), variance, dtype=torch.float64))


def test_the_module_predicts_with_its_settings():
    """`predict` is `mc_predict` with the module's T and τ, 50 and ∞ if not given; the same seed gives the same passes.

    Source: Gal & Ghahramani 2015, §4.  Convention: masks come from torch's global generator.
    """
    net, x = network(Dropout).double(), inputs(3, 5)
    for arguments, (samples, tau) in (({}, (50, math.inf)), ({"num_samples": 7, "tau": 4.0}, (7, 4.0))):
        torch.manual_seed(3)
        found = MCDropout(net, **arguments).predict(x)
        torch.manual_seed(3)
        expected = mc_predict(net, x, samples, tau)
        assert found.samples.shape == (samples, 3, 4)
        laws.assert_all_close(tuple(found), tuple(expected))
    assert mc_predict(net, x).samples.shape == (50, 3, 4)
    laws.assert_differs(mc_predict(net, x).samples[:1], mc_predict(net, x).samples[:1], by=0.01)


def test_passes_are_in_the_order_of_the_inputs():
    """Row b of every pass belongs to input b: with dropout on one feature the others come through unchanged.

    Source: Gal & Ghahramani 2015, eq. 6: moments at each x.
    """

    class OneNoisyFeature(nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout = Dropout(0.5)

        def forward(self, x):
            return torch.cat([self.dropout(x[:, :1]), x[:, 1:]], dim=1)

    x = inputs(3, 4)
    samples = mc_predict(OneNoisyFeature(), x, 5).samples
    laws.assert_same(samples[..., 1:], x[:, 1:].expand(5, 3, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_moments_keep_the_dtype_of_the_model(dtype):
    """Mean, variance and passes have the dtype of the model's parameters, with a finite τ and without.

    Source: the contract of torch.nn modules.
    """
    for tau in (0.5, math.inf):
        for value in mc_predict(network(Dropout).to(dtype), inputs(3, 5).to(dtype), 4, tau):
            assert value.dtype == dtype, f"expected {dtype}, found {value.dtype}"
            assert value.isfinite().all()


@pytest.mark.states("equivalence")
@pytest.mark.project_convention
def test_all_passes_are_one():
    """The model is called once, for T·B rows, at T times the FLOPs of one pass.

    Source: Gal & Ghahramani 2015, §4: the passes can be done concurrently.  Convention: others loop, at the same FLOPs.
    """
    net, x, calls = network(Dropout).double(), inputs(3, 5), []
    net.register_forward_hook(lambda module, args, output: calls.append(len(output)))
    once = cost.flops(net, x)
    total = cost.flops(mc_predict, net, x, 8)
    assert calls == [3, 24], f"expected one call with 24 rows, found {calls[1:]}"
    assert total == 8 * once


def test_gradients_flow_if_they_are_on():
    """Mean and variance have gradients to input and weights; under no_grad there are none.

    Source: Gal & Ghahramani 2015, §4: both are sums over differentiable passes.  Convention: the caller's grad mode.
    """
    net, x = network(Dropout).double(), inputs(3, 5).requires_grad_()
    output = mc_predict(net, x, 4)
    weights = dict(net.named_parameters())
    laws.gradient_reaches(output.mean.square().sum(), weights | {"x": x})
    # The last bias moves every pass alike, so the variance does not see it.
    laws.gradient_reaches(output.variance.sum(), {"first weight": weights["0.weight"], "x": x})
    with torch.no_grad():
        assert not mc_predict(net, x, 4).mean.requires_grad


# ---------------------------------------------------------------------------------------------- precision, likelihood


@given(p=floats(0, 0.95), scale=floats(0.01, 10), n=st.integers(1, 10_000), decay=floats(1e-6, 1))
def test_precision(p, scale, n, decay):
    """τ = (1 − p) l² / (2Nλ), with 1 − p the probability to keep; p = 0.1, l = 0.01, N = 1000, λ = 1e-5 gives 0.0045.

    Source: Gal & Ghahramani 2015, eq. 7.
    """
    found = torch.tensor(model_precision(p, scale, n, decay), dtype=torch.float64)
    laws.assert_close(found, torch.tensor((1 - p) * scale * scale / n / decay / 2, dtype=torch.float64))
    laws.assert_close(torch.tensor(model_precision(0.1, 1e-2, 1000, 1e-5)), torch.tensor(0.0045))


@given(tau=floats(0.05, 20), seed=seeds())
def test_likelihood_of_one_pass_is_a_gaussian(tau, seed):
    """T = 1: log N(y; ŷ, τ⁻¹ I), one value for each target, D log-densities added.

    Source: Gal & Ghahramani 2015, eq. 8.
    """
    samples, target = inputs(1, 4, 2, 3, seed=seed), inputs(4, 2, 3, seed=seed + 1)
    expected = torch.distributions.Normal(samples[0], tau**-0.5).log_prob(target).sum((1, 2))
    laws.assert_close(log_likelihood(samples, target, tau), expected)
    laws.assert_close(
        log_likelihood(samples[..., 0, 0], target[..., 0, 0], tau),
        torch.distributions.Normal(samples[0, :, 0, 0], tau**-0.5).log_prob(target[:, 0, 0]),
    )


@given(tau=floats(0.05, 20), seed=seeds())
def test_likelihood_is_that_of_a_mixture(tau, seed):
    """p(y|x) = 1/T Σ N(y; ŷ_t, τ⁻¹ I): the mean of densities, not of their logarithms; the order of passes is nothing.

    Source: Gal & Ghahramani 2015, eq. 8.
    """
    samples, target = inputs(5, 4, 3, seed=seed), inputs(4, 3, seed=seed + 1)
    density = torch.distributions.Normal(samples, tau**-0.5).log_prob(target).sum(2)
    found = log_likelihood(samples, target, tau)
    laws.assert_close(found.exp(), density.exp().mean(0))
    assert (found >= density.mean(0) - 1e-12).all(), "expected no less than the mean of the logarithms (Jensen)"
    laws.invariant(lambda s: log_likelihood(s, target, tau), samples, lambda s: s.flip(0))
    laws.invariant(lambda s: log_likelihood(s, target, tau), samples, lambda s: s.repeat(3, 1, 1))


def test_likelihood_of_far_targets_is_finite():
    """Where every density underflows its logarithm is still right: −½ τ d² of the nearest pass leads.

    Source: Gal & Ghahramani 2015, eq. 8, logsumexp.
    """
    samples, target = torch.tensor([[[3.0]], [[4.0]]]).double(), torch.tensor([[104.0]]).double()
    expected = -0.5 * 100**2 - math.log(2) - 0.5 * math.log(2 * math.pi)
    laws.assert_close(log_likelihood(samples, target, 1.0), torch.tensor([expected], dtype=torch.float64))


# ---------------------------------------------------------------------------------------------- entropy


@given(seed=seeds())
def test_uncertainty_is_a_sum_of_two(seed):
    """H[1/T Σ p_t] = 1/T Σ H[p_t] + I, each as −Σ p log p of the class in nats, and 0 <= I <= H <= log K.

    Source: Gal, Islam & Ghahramani 2017, arXiv:1703.02910, §3.
    """
    p = probabilities(seed)
    mean = sum(p) / len(p)
    total, expected = -(mean * mean.log()).sum(-1), sum(-(q * q.log()).sum(-1) for q in p) / len(p)
    laws.assert_close(predictive_entropy(p), total)
    laws.assert_close(expected_entropy(p), expected)
    laws.assert_close(mutual_information(p), total - expected)
    assert (mutual_information(p) >= 0).all() and (total <= math.log(4) + 1e-12).all()


@pytest.mark.states("equivalence")
@given(seed=seeds())
def test_information_is_the_mean_divergence_from_the_mean(seed):
    """I = 1/T Σ D_KL(p_t ‖ 1/T Σ p_s): how far the samples are from their mean; their order is no information.

    Source: Houlsby et al. 2011, arXiv:1112.5745, eq. 2.
    """
    p = probabilities(seed)
    divergence = (p * (p / p.mean(0)).log()).sum(-1).mean(0)
    laws.assert_close(mutual_information(p), divergence)
    laws.invariant(mutual_information, p, lambda t: t.flip(0))


def test_sure_samples_that_disagree_are_all_information():
    """Draws that are certain of different classes: H = I = log 2, with nothing expected to remain; 0 log 0 is 0.

    Source: Gal, Islam & Ghahramani 2017, §3: BALD is largest where samples are confident and disagree.
    """
    p = torch.eye(3, dtype=torch.float64)[torch.tensor([[0], [1], [0], [1]])]
    two = torch.tensor([math.log(2)], dtype=torch.float64)
    laws.assert_close(predictive_entropy(p), two)
    laws.assert_close(mutual_information(p), two)
    laws.assert_close(expected_entropy(p), 0 * two)


def test_samples_that_agree_have_no_information():
    """Equal samples, however unsure: I = 0, never below, and H is theirs: the uncertainty is all in the data.

    Source: Gal, Islam & Ghahramani 2017, §3.
    """
    p = probabilities(0, samples=1, batch=300).expand(7, 300, 4)
    information = mutual_information(p)
    assert (information >= 0).all(), f"expected no negative information, found {information.min():g}"
    laws.assert_close(information, torch.zeros(300, dtype=torch.float64))
    laws.assert_close(predictive_entropy(p), -(p[0] * p[0].log()).sum(-1))
