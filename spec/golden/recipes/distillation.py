"""Golden values of knowledge distillation."""

import numpy as np

from spec.golden import Recipe, recipe


@recipe(
    "distillation",
    oracle="torch.nn.functional.kl_div and cross_entropy in float64, autograd",
    second="scipy.special.rel_entr and logsumexp; optax.losses and jax.grad; mpmath with 40 digits",
    needs=("torch", "scipy", "jax", "optax", "mpmath"),
)
def distillation(recipe: Recipe) -> None:
    student = recipe.given(
        "student", [[2.0, -1.0, 0.5, 3.0, -2.5], [0.1, 0.0, -0.3, 0.2, 7.0], [-4.0, 9.0, 1.0, 2.0, 2.0]]
    )
    teacher = recipe.given(
        "teacher", [[1.0, 1.5, -2.0, 2.5, 0.0], [3.0, -1.0, 0.4, 0.0, 5.0], [-8.0, 2.0, 2.0, 6.0, 1.0]]
    )
    target = recipe.given("target", np.array([3, 0, 1]))
    for temperature, alpha in ((1.0, 0.8), (2.5, 0.3), (20.0, 0.9)):
        name = f"T{temperature:g}"
        soft, gradient = _by_torch(student, teacher, target, temperature, 1.0)
        mixed, mixed_gradient = _by_torch(student, teacher, target, temperature, alpha)
        recipe.expect(f"{name}.soft", soft, second=_by_scipy(student, teacher, target, temperature, 1.0))
        recipe.expect(f"{name}.mixed", mixed, second=_by_scipy(student, teacher, target, temperature, alpha))
        recipe.expect(f"{name}.gradient", gradient, second=_by_optax(student, teacher, target, temperature, 1.0))
        recipe.expect(
            f"{name}.mixed_gradient", mixed_gradient, second=_by_optax(student, teacher, target, temperature, alpha)
        )
    _ten_classes(recipe)


def _by_torch(student, teacher, target, temperature, alpha):
    """As most code has it: kl_div of log-probabilities, "batchmean", times T²."""
    import torch
    import torch.nn.functional as F

    z, v, y = torch.from_numpy(student).requires_grad_(), torch.from_numpy(teacher), torch.from_numpy(target)
    divergence = F.kl_div((z / temperature).log_softmax(1), (v / temperature).softmax(1), reduction="batchmean")
    loss = alpha * temperature**2 * divergence + (1 - alpha) * F.cross_entropy(z, y)
    return loss, torch.autograd.grad(loss, z)[0]


def _by_scipy(student, teacher, target, temperature, alpha):
    from scipy.special import logsumexp, rel_entr, softmax

    p, q = softmax(teacher / temperature, axis=1), softmax(student / temperature, axis=1)
    divergence = rel_entr(p, q).sum() / len(student)
    hard = (logsumexp(student, axis=1) - student[np.arange(len(student)), target]).mean()
    return alpha * temperature**2 * divergence + (1 - alpha) * hard


def _by_optax(student, teacher, target, temperature, alpha):
    """The gradient of optax's losses by jax."""
    import jax
    import optax

    with jax.enable_x64(True):

        def loss(z):
            log_q = jax.nn.log_softmax(z / temperature)
            soft = optax.losses.kl_divergence(log_q, jax.nn.softmax(teacher / temperature))
            hard = optax.losses.softmax_cross_entropy_with_integer_labels(z, target)
            return (alpha * temperature**2 * soft + (1 - alpha) * hard).mean()

        return np.asarray(jax.grad(loss)(jax.numpy.asarray(student)))


def _ten_classes(recipe):
    """v = (0, 1, …, 9) and z = 0 at T = 4: T² (log 10 − H(p)), with 40 digits; log q = −log 10."""
    import mpmath
    from scipy.stats import entropy

    mpmath.mp.dps = 40
    logits = [mpmath.mpf(i) / 4 for i in range(10)]
    total = mpmath.fsum(mpmath.exp(t) for t in logits)
    p = [mpmath.exp(t) / total for t in logits]
    value = 16 * (mpmath.log(10) + mpmath.fsum(a * mpmath.log(a) for a in p))
    recipe.expect("ten_classes", float(value), second=16 * entropy(np.array(p, dtype=float), np.full(10, 0.1)))
