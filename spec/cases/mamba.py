"""Cases of selective state spaces: both discretizations, filters and states of several sizes, a model."""

import torch

from impl.models.mamba import Mamba, MambaBlock, MambaState, associative_scan, combine, discretize, selective_scan
from spec.cases import Bad, Case
from spec.contract import Contract


def _normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def scan_inputs(b=2, t=5, d=3, n=4):
    """u, Δ > 0, A < 0, B, C, D and a state."""
    delta, decay = 0.5 * _normal(b, t, d, seed=1).exp(), -_normal(d, n, seed=2).exp()
    rest = _normal(b, t, n, seed=3), _normal(b, t, n, seed=4), _normal(d, seed=5), _normal(b, d, n, seed=6)
    return _normal(b, t, d), delta, decay, *rest


def _bad_scan(*mentions, place=None, tensor=None, **options):
    def call():
        inputs = list(scan_inputs())
        if place is not None:
            inputs[place] = tensor
        selective_scan(*inputs, **options)

    return Bad(call=call, mentions=mentions)


def _bad_tokens(tokens, *mentions, call="forward", **options):
    return Bad(call=lambda: getattr(Mamba(7, 6, 1), call)(tokens, **options), mentions=mentions)


def _two_texts_then(texts):
    def call():
        model = Mamba(7, 6, 1)
        states = model.empty_states()
        model(torch.ones(2, 3, dtype=torch.long), states)
        model(torch.ones(texts, 1, dtype=torch.long), states)

    return Bad(call=call, mentions=("2", str(texts)))


TOKENS = torch.tensor([[3, 1, 4, 1], [5, 2, 6, 5], [3, 0, 2, 4]])
A_IS_SHARED = "A, whose first dimension is the channels, belongs to all samples; stated in properties for u, Δ, B and C"
BAD_SCAN = {
    "a signal without channels": _bad_scan("(2, 5)", place=0, tensor=torch.ones(2, 5)),
    "no steps": _bad_scan("at least a step", "(2, 0, 3)", place=0, tensor=torch.ones(2, 0, 3)),
    "steps of another length": _bad_scan("delta", "(2, 5, 3)", "(2, 4, 3)", place=1, tensor=torch.ones(2, 4, 3)),
    "one step size for all channels": _bad_scan("delta", "(2, 5, 1)", place=1, tensor=torch.ones(2, 5, 1)),
    "decays of other channels": _bad_scan("A of shape (3, states)", "(5, 4)", place=2, tensor=torch.ones(5, 4)),
    "decays of fewer channels": _bad_scan("A of shape (3, states)", "(2, 4)", place=2, tensor=torch.ones(2, 4)),
    "decays that vary": _bad_scan("A of shape", "(2, 3, 4)", place=2, tensor=torch.ones(2, 3, 4)),
    "B without states": _bad_scan("B of shape (2, 5, 4)", "(2, 5, 3)", place=3, tensor=torch.ones(2, 5, 3)),
    "C of another batch": _bad_scan("C of shape (2, 5, 4)", "(1, 5, 4)", place=4, tensor=torch.ones(1, 5, 4)),
    "D of the states": _bad_scan("D of shape (3,)", "(4,)", place=5, tensor=torch.ones(4)),
    "a state laid out the other way": _bad_scan("state", "(2, 3, 4)", "(2, 4, 3)", place=6, tensor=torch.ones(2, 4, 3)),
}
BAD_BLOCK = {
    "tokens of another width": Bad(call=lambda: MambaBlock(6)(torch.ones(2, 3, 5)), mentions=("6", "(2, 3, 5)")),
    "wider tokens": Bad(call=lambda: MambaBlock(6)(torch.ones(2, 3, 7)), mentions=("6", "(2, 3, 7)")),
    "no batch": Bad(call=lambda: MambaBlock(6)(torch.ones(3, 6)), mentions=("(3, 6)",)),
    "no tokens": Bad(call=lambda: MambaBlock(6)(torch.ones(2, 0, 6)), mentions=("(2, 0, 6)",)),
}
BAD_MODEL = {
    "one text without a batch": _bad_tokens(torch.tensor([1, 2]), "(2,)"),
    "no tokens": _bad_tokens(torch.zeros(2, 0, dtype=torch.long), "(2, 0)"),
    "tokens that are not whole numbers": _bad_tokens(torch.ones(2, 3), "torch.float32"),
    "no states at all": _bad_tokens(TOKENS, "1", "0", states=[]),
    "states of another model": _bad_tokens(TOKENS, "1", "2", states=[None, None]),
    "states of another batch": _two_texts_then(3),
    "states of two texts for one": _two_texts_then(1),
    "fewer than no new tokens": _bad_tokens(TOKENS, "-1", call="generate", count=-1),
    "a temperature below 0": _bad_tokens(TOKENS, "-0.5", call="generate", count=1, temperature=-0.5),
}

CASES = [
    Case(
        item="mamba",
        name="selective_scan",
        build=lambda: selective_scan,
        inputs=scan_inputs,
        bad=BAD_SCAN,
        exempt={
            "batch_independent": A_IS_SHARED,
            "batch_independent_in_eval": A_IS_SHARED,
            "empty_batch_is_defined": "the law would take A's channels away as well; stated in properties",
            "keeps_dtype": "the state stays float32 or wider; stated in properties",
        },
        is_function=True,
    ),
    Case(
        item="mamba",
        name="discretize",
        build=lambda: discretize,
        inputs=lambda: (_normal(2, 3, 1).exp(), -_normal(2, 1, 4, seed=1).exp(), "zoh"),
        is_function=True,
    ),
    Case(
        item="mamba",
        name="associative_scan",
        build=lambda: associative_scan,
        inputs=lambda: (_normal(5, 2, 3).sigmoid(), _normal(5, 2, 3, seed=1)),
        exempt={
            "batch_independent": "the first dimension is time",
            "batch_independent_in_eval": "the first dimension is time",
        },
        is_function=True,
    ),
    Case(
        item="mamba",
        name="MambaBlock",
        build=lambda: MambaBlock(d_model=3, d_state=4, d_conv=5, expand=2, dt_rank=1),
        inputs=lambda: (_normal(2, 4, 3),),
        bad=BAD_BLOCK,
    ),
    Case(
        item="mamba",
        name="MambaBlock, zero-order hold",
        build=lambda: MambaBlock(d_model=2, d_state=3, d_conv=4, discretization="zoh"),
        inputs=lambda: (_normal(3, 5, 2),),
    ),
    Case(
        item="mamba",
        name="Mamba",
        build=lambda: Mamba(vocab_size=7, d_model=2, n_layer=2, d_state=3, d_conv=2, eps=0.1),
        inputs=lambda: (TOKENS,),
        bad=BAD_MODEL,
    ),
]

_INNER = "expand * d_model"
_RANK = "(dt_rank or -(-d_model // 16))"
_BLOCK_RANGES = dict.fromkeys(("d_model", "d_state", "d_conv", "expand"), "int >= 1") | {"dt_rank": "int >= 1 or None"}
_DISCRETIZATION = "'euler', 'zoh'"
_SCAN = dict(zip(("u", "delta", "A", "B", "C", "D", "state"), scan_inputs()))


def _mixer(prefix=""):
    return {
        f"{prefix}A_log": f"({_INNER}, d_state)",
        f"{prefix}D": f"({_INNER},)",
        f"{prefix}in_proj.weight": f"(2 * {_INNER}, d_model)",
        f"{prefix}conv1d.weight": f"({_INNER}, 1, d_conv)",
        f"{prefix}conv1d.bias": f"({_INNER},)",
        f"{prefix}x_proj.weight": f"({_RANK} + 2 * d_state, {_INNER})",
        f"{prefix}dt_proj.weight": f"({_INNER}, {_RANK})",
        f"{prefix}dt_proj.bias": f"({_INNER},)",
        f"{prefix}out_proj.weight": f"(d_model, {_INNER})",
    }


_PLAIN = {"associative_scan": associative_scan, "combine": combine}
CONTRACTS = [
    Contract(
        item="mamba",
        name="MambaState",
        of=MambaState,
        remembers="the filter's last inputs (batch, d_conv - 1, d_inner) and h (batch, d_inner, d_state), and no more",
    ),
    Contract(
        item="mamba",
        name="MambaBlock",
        of=MambaBlock,
        calls=({"d_model": 3, "d_state": 4, "d_conv": 5},),
        ranges=_BLOCK_RANGES | {"discretization": _DISCRETIZATION},
        state=_mixer(),
        remembers="nothing; a state is the caller's",
    ),
    Contract(
        item="mamba",
        name="Mamba",
        of=Mamba,
        calls=({"vocab_size": 7, "d_model": 3, "n_layer": 1, "d_state": 4, "d_conv": 5},),
        ranges={"vocab_size": "int >= 1", "n_layer": "int >= 1", "eps": "[0, inf]"} | _BLOCK_RANGES,
        state={
            "backbone.embeddings.weight": "(vocab_size, d_model)",
            "backbone.layers.0.norm.weight": "(d_model,)",
            "backbone.norm_f.weight": "(d_model,)",
        }
        | _mixer("backbone.layers.0.mixer."),
        loads={"lm_head.weight": "the embeddings once more, as released weights hold them; others raise"},
        remembers="nothing; states are the caller's",
    ),
    Contract(
        item="mamba",
        name="selective_scan",
        of=selective_scan,
        calls=(_SCAN,),
        ranges={"discretization": _DISCRETIZATION},
    ),
    Contract(
        item="mamba",
        name="discretize",
        of=discretize,
        calls=({"delta": torch.ones(2), "A": -torch.ones(2)},),
        ranges={"method": _DISCRETIZATION},
    ),
    *(Contract(item="mamba", name=name, of=of) for name, of in _PLAIN.items()),
]
