"""python -m impl.models.nerf --out FOLDER: a solid with two digits as its shadows, learned from photographs."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ...demonstration import arguments, digits, save_grid, train
from ...optim.adamw import AdamW
from . import NeRF, get_rays, render_rays

SIDE, FOCAL, NEAR, FAR = 32, 60.0, 2.8, 5.2


def solid(front: Float[Tensor, "8 8"], left: Float[Tensor, "8 8"]):
    """A field, opaque where both digits are: one as it is seen along z, the other along x."""

    def field(x, d):
        cells = ((x + 0.8) * 5).floor().long()
        inside = ((cells >= 0) & (cells < 8)).all(-1)
        column, row, depth = cells.clamp(0, 7).unbind(-1)
        there = (front[7 - row, column] > 0.3) & (left[7 - row, 7 - depth] > 0.3) & inside
        return 0.5 + 0.5 * x.clamp(-1, 1), 50.0 * there

    return field


def camera(azimuth: float, elevation: float, distance: float = 4.0) -> Float[Tensor, "3 4"]:
    """A pose that looks at the origin; azimuth 0 looks along −z, π/2 along −x."""
    back = [math.cos(elevation) * math.sin(azimuth), math.sin(elevation), math.cos(elevation) * math.cos(azimuth)]
    back, right = torch.tensor(back), torch.tensor([math.cos(azimuth), 0.0, -math.sin(azimuth)])
    return torch.stack([right, torch.linalg.cross(back, right), back, distance * back], dim=1)


def seen(coarse, fine, pose, samples: int, more: int) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w"]]:
    """Colour and depth of all pixels, before white."""
    with torch.no_grad():
        colour, depth, opacity, _ = render_rays(
            coarse, fine, *get_rays(SIDE, SIDE, FOCAL, pose), NEAR, FAR, samples, more, white_background=True
        )[1]
    return colour, depth + (1 - opacity) * FAR


def main(given: list[str] | None = None) -> None:
    """Trains both networks on 24 photographs; writes new views, the true ones beneath, and depths."""
    options = arguments("nerf", "A solid from photographs, by NeRF.", steps=400, given=given)
    images, labels = digits()
    field = solid(*(images[labels == digit][0, 0] for digit in (3, 0)))
    poses = [camera(2.4 * i, 0.6 * math.sin(1.7 * i)) for i in range(24)]  # steps of the golden angle
    rays = [torch.cat(parts).view(-1, 3) for parts in zip(*(get_rays(SIDE, SIDE, FOCAL, pose) for pose in poses))]
    photographs = torch.cat([seen(field, field, pose, 96, 64)[0] for pose in poses]).view(-1, 3)
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    networks = [NeRF(pos_freqs=5, dir_freqs=2, width=64, depth=4, skip=2) for _ in range(2)]
    for network in networks:
        network.sigma.bias.data.fill_(0.5)  # some fog: where ReLU gives 0 everywhere, nothing is learned
    optimizer = AdamW([p for network in networks for p in network.parameters()], lr=4e-3, weight_decay=0.0)

    def step():
        chosen = torch.randint(len(photographs), (320,), generator=generator)
        found = render_rays(*networks, *(x[chosen] for x in rays), NEAR, FAR, 24, 24, True, generator)
        errors = [(rendered[0] - photographs[chosen]).square().mean() for rendered in found]  # eq. 6
        optimizer.zero_grad()
        sum(errors).backward()
        optimizer.step()
        coarse, fine = (-10 * error.detach().log10().item() for error in errors)
        return {"dB, coarse": coarse, "dB, fine": fine}

    parts = {"coarse": networks[0], "fine": networks[1], "optimizer": optimizer}
    train(step, parts, options.steps, generator, options.out, every=50)
    around = [camera(math.pi / 2 * i / 7, 0.1) for i in range(8)]
    new, true = ([seen(*pair, pose, 48, 48) for pose in around] for pair in (networks, (field, field)))
    rows = [colour for colour, _ in new] + [colour for colour, _ in true]
    rows += [(1 - (depth - NEAR) / (FAR - NEAR))[..., None].expand(-1, -1, 3) for _, depth in new]
    save_grid(torch.stack(rows).movedim(-1, 1), options.out / "views.png", columns=8)
    errors = [(a - b).square().mean() for (a, _), (b, _) in zip(new, true)]
    print(f"{-10 * torch.stack(errors).mean().log10().item():.1f} dB in views that were never photographed")
    print(f"{options.out / 'views.png'} shows them, the true ones beneath, and below what is near, bright")


if __name__ == "__main__":
    main()
