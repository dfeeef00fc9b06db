"""Golden values of the vector-quantized auto-encoder."""

import numpy as np

from spec.golden import Recipe, recipe


@recipe(
    "vq-vae",
    oracle="diffusers' VectorQuantizer(legacy=False), the averages of vector_quantize_pytorch, scipy.cluster.vq",
    second="NumPy, cluster by cluster, with derivatives by hand; scipy.spatial.cKDTree; scipy.stats.entropy",
    needs=("torch", "diffusers", "vector-quantize-pytorch", "scipy"),
)
def vqvae(recipe: Recipe) -> None:
    _by_gradient(recipe)
    _by_averages(recipe)
    _k_means(recipe)


def _rows(z):
    return np.moveaxis(z, 1, -1).reshape(-1, z.shape[1])


def _by_gradient(recipe):
    """Outputs, and the gradients of ⟨z_q, cotangent⟩ + 3·loss, for 5 codes of 3 dimensions on 2 × 4 positions."""
    import torch
    from diffusers.models.autoencoders.vae import VectorQuantizer
    from scipy import spatial, stats

    generator = np.random.default_rng(0)
    z = recipe.given("z", generator.standard_normal((2, 3, 2, 4)))
    codes = recipe.given("codes", generator.standard_normal((5, 3)))
    cotangent = recipe.given("cotangent", generator.standard_normal(z.shape))
    beta = 0.4
    theirs = VectorQuantizer(5, 3, beta, legacy=False, sane_index_shape=True).double()
    theirs.embedding.weight.data = torch.from_numpy(codes)
    given = torch.from_numpy(z).requires_grad_()
    z_q, loss, (_, _, indices) = theirs(given)
    total = (z_q * torch.from_numpy(cotangent)).sum() + 3 * loss
    by_z, by_codes = torch.autograd.grad(total, (given, theirs.embedding.weight))

    nearest = spatial.cKDTree(codes).query(_rows(z))[1]
    gap = _rows(z) - codes[nearest]
    back = np.moveaxis(gap.reshape(2, 2, 4, 3), -1, 1)
    by_hand = np.zeros_like(codes)
    for k, difference in zip(nearest, gap):
        by_hand[k] -= 3 * 2 * difference / z.size
    recipe.expect("indices", indices, second=nearest.reshape(2, 2, 4))
    recipe.expect("z_q", z_q, second=np.moveaxis(codes[nearest].reshape(2, 2, 4, 3), -1, 1))
    recipe.expect("loss", loss, second=(1 + beta) * np.mean(gap**2))
    recipe.expect("by_z", by_z, second=cotangent + 3 * 2 * beta * back / z.size)
    recipe.expect("by_codes", by_codes, second=by_hand)
    share = np.bincount(nearest, minlength=5) / len(nearest)
    logarithms = np.log(share, where=share > 0, out=np.zeros(5))
    recipe.expect("perplexity", np.exp(stats.entropy(share)), second=np.prod(np.exp(-share * logarithms)))


def _by_averages(recipe):
    """Three steps from N and m as after some training: states after each, with one cluster empty all the time."""
    import torch
    from vector_quantize_pytorch import VectorQuantize

    generator = np.random.default_rng(1)
    batches = recipe.given("ema.z", generator.standard_normal((3, 4, 2, 6)))  # steps, batch, D, positions
    size = recipe.given("ema.cluster_size", [0.5, 3.0, 1.25, 2.0])
    total = recipe.given("ema.cluster_sum", [[0.25, -0.5], [-3.0, 1.5], [25.0, 25.0], [1.0, 3.0]])
    codes = recipe.given("ema.codebook", [[0.5, -1.0], [-1.0, 0.5], [20.0, 20.0], [0.5, 1.5]])
    decay, eps = 0.75, 0.125  # both exact in binary
    theirs = VectorQuantize(2, 4, decay=decay, eps=eps).double()._codebook
    state = {"embed": codes, "cluster_size": size, "embed_avg": total}
    for name, value in state.items():
        getattr(theirs, name).data = torch.tensor(value)[None]  # a copy: it is changed in place
    ours = {"size": size.copy(), "total": total.copy(), "codes": codes.copy()}
    for step, batch in enumerate(batches):
        rows = _rows(batch)
        nearest = torch.cdist(torch.from_numpy(rows), theirs.embed[0]).argmin(1)
        members = torch.nn.functional.one_hot(nearest, 4).double()
        theirs.track_cluster_size_and_embed_avg(torch.from_numpy(rows)[None], members[None])
        theirs.update_ema()
        chosen = ((rows[:, None] - ours["codes"]) ** 2).sum(-1).argmin(1)
        for k in range(4):
            mine = rows[chosen == k]
            ours["size"][k] = decay * ours["size"][k] + (1 - decay) * len(mine)
            ours["total"][k] = decay * ours["total"][k] + (1 - decay) * mine.sum(0)
        smooth = (ours["size"] + eps) / (ours["size"].sum() + 4 * eps) * ours["size"].sum()
        ours["codes"] = ours["total"] / smooth[:, None]
        recipe.expect(f"ema.cluster_size.{step + 1}", theirs.cluster_size[0].clone(), second=ours["size"].copy())
        recipe.expect(f"ema.cluster_sum.{step + 1}", theirs.embed_avg[0].clone(), second=ours["total"].copy())
        recipe.expect(f"ema.codebook.{step + 1}", theirs.embed[0].clone(), second=ours["codes"].copy())


def _k_means(recipe):
    """Lloyd's algorithm run to its end on 40 points, from four of them."""
    from scipy.cluster.vq import kmeans2

    points = recipe.given("k_means.points", np.random.default_rng(2).standard_normal((40, 2)))
    centres, labels = kmeans2(points, points[:4], iter=30, minit="matrix")
    codes = points[:4]
    for _ in range(30):
        nearest = ((points[:, None] - codes) ** 2).sum(-1).argmin(1)
        codes = np.stack([points[nearest == k].mean(0) for k in range(4)])
    recipe.expect("k_means.codes", centres, second=codes)
    recipe.expect("k_means.indices", labels.astype(np.int64), second=nearest)
