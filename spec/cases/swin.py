"""Cases of Swin."""

from impl.models.swin import PatchMerging, SwinBlock, SwinTransformer, WindowAttention
from spec.cases import Bad, Case
from spec.contract import Contract
from spec.laws import random, reseed

SETTINGS = {
    "embed_dim": 4,
    "depths": (2, 2),
    "num_heads": (2, 4),
    "window_size": 2,
    "patch_size": 2,
    "num_classes": 5,
    "channels": 3,
}


def swin(**options):
    reseed(0)
    return SwinTransformer(**SETTINGS | options)


def block(**options):
    reseed(1)
    return SwinBlock(**{"dim": 4, "num_heads": 2, "window_size": 2, "shift_size": 1, "mlp_dim": 5} | options)


def window_attention(window_size=2):
    reseed(2)
    return WindowAttention(6, window_size, 3)


_BAD = {
    "an image of other channels": Bad(call=lambda: swin()(random(2, 1, 8, 6)), mentions=("3", "(2, 1, 8, 6)")),
    "an image without height": Bad(call=lambda: swin()(random(2, 3, 0, 6)), mentions=("(2, 3, 0, 6)",)),
    "no stage": Bad(call=lambda: swin(depths=(), num_heads=()), mentions=("()",)),
    "a stage without heads": Bad(call=lambda: swin(num_heads=(2,)), mentions=("(2, 2)", "(2,)")),
    "a stage without blocks": Bad(call=lambda: swin(depths=(2, 0)), mentions=("(2, 0)",)),
    "heads that do not divide": Bad(call=lambda: swin(num_heads=(2, 3)), mentions=("3", "8")),
}

CASES = [
    Case(
        item="swin",
        name="SwinTransformer",
        build=lambda: swin(depths=(2,), num_heads=(2,), channels=1),
        inputs=lambda: (random(2, 1, 6, 5),),
        bad=_BAD,
    ),
    Case(
        item="swin",
        name="SwinTransformer, two stages without a head",
        build=lambda: swin(depths=(1, 2), num_classes=None),
        inputs=lambda: (random(2, 3, 10, 14),),
        exempt={"gradient_correct": "its parts have records of their own"},
    ),
    Case(
        item="swin",
        name="SwinBlock, shifted",
        build=block,
        inputs=lambda: (random(2, 3, 5, 4),),
        bad={
            "a map of another width": Bad(call=lambda: block()(random(2, 3, 5, 6)), mentions=("4", "(2, 3, 5, 6)")),
            "tokens in a row": Bad(call=lambda: block()(random(2, 3, 4)), mentions=("(2, 3, 4)",)),
            "a map without width": Bad(call=lambda: block()(random(2, 3, 0, 4)), mentions=("(2, 3, 0, 4)",)),
        },
    ),
    Case(
        item="swin",
        name="WindowAttention",
        build=window_attention,
        inputs=lambda: (random(3, 4, 6),),
        bad={
            "windows of other tokens": Bad(
                call=lambda: window_attention()(random(2, 9, 6)), mentions=("4", "(2, 9, 6)")
            ),
            "windows of another width": Bad(call=lambda: window_attention()(random(2, 4, 5)), mentions=("(2, 4, 5)",)),
        },
    ),
    Case(
        item="swin",
        name="PatchMerging, odd sides",
        build=lambda: reseed(3) or PatchMerging(2),
        inputs=lambda: (random(2, 3, 5, 2),),
        bad={"a map of another width": Bad(call=lambda: PatchMerging(2)(random(2, 4, 6, 3)), mentions=("2",))},
    ),
]

ATTENTION = {
    "in_proj_weight": "(3 * {d}, {d})",
    "in_proj_bias": "(3 * {d},)",
    "out_proj.weight": "({d}, {d})",
    "out_proj.bias": "({d},)",
    "bias_table": "((2 * window_size - 1) ** 2, {heads})",
}


def _block(prefix: str, width: str, heads: str, hidden: str) -> dict[str, str]:
    found = {f"{prefix}attention.{name}": shape.format(d=width, heads=heads) for name, shape in ATTENTION.items()}
    for norm in ("norm1", "norm2"):
        found |= {f"{prefix}{norm}.{kind}": f"({width},)" for kind in ("weight", "bias")}
    found |= {f"{prefix}mlp.linear1.weight": f"({hidden}, {width})", f"{prefix}mlp.linear1.bias": f"({hidden},)"}
    return found | {f"{prefix}mlp.linear2.weight": f"({width}, {hidden})", f"{prefix}mlp.linear2.bias": f"({width},)"}


CONTRACTS = [
    Contract(
        item="swin",
        name="SwinTransformer",
        of=SwinTransformer,
        calls=(SETTINGS | {"depths": (1, 1)},),
        ranges={
            "window_size": "int >= 1",
            "patch_size": "int >= 1",
            "num_classes": "int >= 1 or None",
            "channels": "int >= 1",
        },
        state={
            "patches.projection.weight": "(embed_dim, channels, patch_size, patch_size)",
            "patches.projection.bias": "(embed_dim,)",
            "embedding_norm.weight": "(embed_dim,)",
            "embedding_norm.bias": "(embed_dim,)",
            "mergings.0.norm.weight": "(4 * embed_dim,)",
            "mergings.0.norm.bias": "(4 * embed_dim,)",
            "mergings.0.reduction.weight": "(2 * embed_dim, 4 * embed_dim)",
            "norm.weight": "(2 * embed_dim,)",
            "norm.bias": "(2 * embed_dim,)",
            "head.weight": "(num_classes, 2 * embed_dim)",
            "head.bias": "(num_classes,)",
        }
        | _block("stages.0.0.", "embed_dim", "num_heads[0]", "4 * embed_dim")
        | _block("stages.1.0.", "2 * embed_dim", "num_heads[1]", "8 * embed_dim"),
    ),
    Contract(
        item="swin",
        name="SwinBlock",
        of=SwinBlock,
        calls=({"dim": 4, "num_heads": 2, "window_size": 3, "shift_size": 1, "mlp_dim": 5},),
        ranges={"shift_size": "int in [0, 2]", "mlp_dim": "int >= 1 or None"},
        state=_block("", "dim", "num_heads", "mlp_dim"),
    ),
    Contract(
        item="swin",
        name="WindowAttention",
        of=WindowAttention,
        calls=({"dim": 6, "window_size": 2, "num_heads": 3},),
        ranges={"window_size": "int >= 1"},
        state={name: shape.format(d="dim", heads="num_heads") for name, shape in ATTENTION.items()},
    ),
    Contract(
        item="swin",
        name="PatchMerging",
        of=PatchMerging,
        calls=({"dim": 3},),
        ranges={"dim": "int >= 1"},
        state={
            "norm.weight": "(4 * dim,)",
            "norm.bias": "(4 * dim,)",
            "reduction.weight": "(2 * dim, 4 * dim)",
        },
    ),
]
