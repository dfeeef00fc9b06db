"""Golden values of GPT-2."""

import pytest
import torch

from impl.models.gpt import GPT, sampling_distribution, weights_from_gpt2, weights_to_gpt2
from spec import laws
from spec.golden import load

pytestmark = pytest.mark.item("gpt")


def loaded(golden):
    model = GPT(13, 9, n_layer=2, n_head=3, n_embd=12).double().eval()
    model.load_state_dict(weights_from_gpt2(golden.state_dict("gpt2")))
    return model


@pytest.mark.parametrize("chunks", [[8], [1, 3, 4]])
def test_logits_agree_with_transformers_and_jax(chunks):
    """With a checkpoint's weights the logits are those of GPT2LMHeadModel, at once or with a cache.

    Source: Radford et al. 2019 (GPT-2); transformers' GPT2LMHeadModel, the equations in jax.
    """
    golden = load("gpt")
    model = loaded(golden)
    cache = model.new_cache()
    golden.check("logits", torch.cat([model(part, cache=cache) for part in golden["tokens"].split(chunks, 1)], 1))


def test_loss_and_gradients_agree_with_transformers_and_jax():
    """The loss of two texts and its gradient to every parameter, for E that of both uses, are those of GPT2LMHeadModel.

    Source: Radford et al. 2018, eq. 1; transformers' GPT2LMHeadModel, torch's cross_entropy, jax.grad.
    """
    golden = load("gpt")
    model = loaded(golden)
    loss = model.loss(golden["tokens"])
    golden.check("loss", loss)
    names, parameters = zip(*model.named_parameters())
    grads = weights_to_gpt2(dict(zip(names, torch.autograd.grad(loss, parameters))))
    assert len(grads) == 29, f"expected 28 gradients and one of them twice, found {len(grads)}"
    for name, grad in grads.items():
        if name != "lm_head.weight":
            golden.check(f"d_gpt2.{name}", grad)


def test_padded_texts_agree_with_transformers_and_jax():
    """With 3 tokens of padding on the left the logits of all tokens are those of GPT2LMHeadModel, whose positions count
    tokens.

    Source: transformers' GPT2LMHeadModel(attention_mask, position_ids) as in its generate.
    """
    golden = load("gpt")
    kept = golden["key_mask"].bool()
    golden.check("logits_padded", loaded(golden)(golden["tokens"], kept)[kept])


def test_greedy_text_agrees_with_transformers():
    """Six greedy tokens after three are those of transformers' generate.

    Source: transformers' GenerationMixin.generate(do_sample=False).
    """
    golden = load("gpt")
    laws.assert_same(loaded(golden).generate(golden["tokens"][:, :3], 6, temperature=0), golden["greedy"])


def test_filtered_probabilities_agree_with_transformers():
    """Temperature 0.7, then the best 6, then the nucleus of 0.8 give the probabilities of transformers' warpers.

    Source: Holtzman et al. 2019, arXiv:1904.09751, §3.1; transformers' Temperature-, TopK- and TopPLogitsWarper.
    """
    golden = load("gpt")
    golden.check("probabilities", sampling_distribution(golden["scores"], 0.7, top_k=6, top_p=0.8))
