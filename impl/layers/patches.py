"""An image as a sequence of square patches, row by row, and what a vision transformer needs of them.

Dosovitskiy et al. 2020, arXiv:2010.11929, §3.1: an image (c, H, W) becomes N = HW/P² patches of P² c numbers.
"""

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from .checks import check_sizes, check_space
from .convolution import Conv2d
from .upsampling import bilinear


def patchify(images: Float[Tensor, "n c h w"], size: int) -> Float[Tensor, "n t p"]:
    """The patches of each image, row by row; within a patch row, column, channel, the channel fastest.

    Args:
        size: P, the side of a patch.

    Raises:
        ValueError: an image without size, or one whose sides P does not divide.
    """
    grid_of(images, size)
    n, c, h, w = images.shape
    cut = images.reshape(n, c, h // size, size, w // size, size)
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # (n, rows · columns, P · P · c)


def unpatchify(patches: Shaped[Tensor, "n t p"], size: int, grid: tuple[int, int]) -> Shaped[Tensor, "n c h w"]:
    """The images of patches: the inverse of `patchify`.

    Args:
        grid: rows and columns of patches.

    Raises:
        ValueError: another number of patches, or patches that no number of channels makes.
    """
    rows, columns = grid
    n, count, numbers = patches.shape
    if count != rows * columns or numbers % size**2:
        wanted = f"({n}, {rows * columns}, a multiple of {size**2})"
        raise ValueError(f"expected patches {wanted}, got {tuple(patches.shape)}")
    cut = patches.reshape(n, rows, columns, size, size, numbers // size**2)
    return cut.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)  # (n, c, rows · P, columns · P)


def grid_of(images: Tensor, size: int) -> tuple[int, int]:
    """Rows and columns of patches of side `size`; ValueError where it does not divide the image."""
    check_space(images, 2)
    height, width = images.shape[2:]
    if height % size or width % size:
        raise ValueError(f"expected sides that patches of {size} divide, got an image of {height} × {width}")
    return height // size, width // size


class PatchEmbedding(nn.Module):
    """Each patch of an image times E, plus a bias: a convolution whose stride is its kernel.

    Args:
        channels: c, of the image.
        width: D, of the tokens.
        patch_size: P, the side of a patch.

    Raises:
        ValueError: a size below 1; an image of other channels, or with a side that P does not divide.

    Source: Dosovitskiy et al. 2020, arXiv:2010.11929, eq. 1.
    """

    def __init__(self, channels: int, width: int, patch_size: int):
        super().__init__()
        check_sizes(channels=channels, width=width, patch_size=patch_size)
        self.patch_size = patch_size
        self.projection = Conv2d(channels, width, patch_size, stride=patch_size)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n t d"]:
        grid_of(images, self.patch_size)
        return self.projection(images).flatten(2).mT  # (n, rows · columns, D)


def resize_positions(
    positions: Float[Tensor, "t d"], grid: tuple[int, int], wanted: tuple[int, int]
) -> Float[Tensor, "s d"]:
    """Embeddings of a grid's places, row by row, as those of another grid over the same image: bilinear.

    Convention: places are centres of patches, as in Segmenter and torch's align_corners=False; beyond the outermost
    centres the outermost value counts.  (ViT's own code aligns the corners, others take cubic interpolation.)

    Source: Dosovitskiy et al. 2020, arXiv:2010.11929, §3.2.
    """
    if grid == wanted:
        return positions
    image = positions.mT.reshape(1, -1, *grid)
    return bilinear(image, wanted)[0].flatten(1).mT
