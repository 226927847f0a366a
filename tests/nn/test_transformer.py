"""The causal transformer against torch's own layer, and what a state may depend on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffrec.nn.transformer import CausalTransformer, TransformerBlock, last_state


def transformer(num_blocks: int = 2, num_heads: int = 2, dropout: float = 0.3) -> CausalTransformer:
    torch.manual_seed(0)
    return CausalTransformer(8, num_blocks, num_heads, dropout, init_std=0.3).double()


def sequences(batch: int = 3, length: int = 6) -> torch.Tensor:
    return torch.randn(batch, length, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_a_block_is_the_pre_norm_layer_of_torch(num_heads):
    torch.manual_seed(0)
    block = TransformerBlock(8, num_heads, 0.0).double()
    theirs = nn.TransformerEncoderLayer(8, num_heads, 32, 0.0, "gelu", batch_first=True, norm_first=True).double()
    names = {
        "self_attn.in_proj_": "qkv.", "self_attn.out_proj.": "out.", "linear1.": "feed.0.", "linear2.": "feed.2.",
        "norm1.": "norm_attention.", "norm2.": "norm_feed.",
    }  # fmt: skip
    state = block.state_dict()
    with torch.no_grad():
        for norm in (block.norm_attention, block.norm_feed):
            norm.weight.uniform_(0.5, 2)
            norm.bias.normal_()
    theirs.load_state_dict({a + end: state[b + end] for a, b in names.items() for end in ("weight", "bias")})
    x = sequences()
    mask = nn.Transformer.generate_square_subsequent_mask(6, dtype=torch.float64)
    torch.testing.assert_close(block(x), theirs(x, src_mask=mask), rtol=1e-10, atol=1e-10)


def test_a_later_item_changes_no_earlier_state():
    model, x = transformer().eval(), sequences()
    before = model(x)
    for place in range(6):
        changed = x.clone()
        changed[:, place] += torch.linspace(-1, 1, 8, dtype=torch.float64)
        difference = (model(changed) - before).abs().amax((0, 2))
        assert (difference[:place] < 1e-12).all()
        assert (difference[place:] > 1e-6).all(), "every later state sees it"


def test_padding_behind_the_end_changes_nothing():
    model, x = transformer().eval(), sequences()
    longer = torch.cat([x, 100 * sequences(3, 4)], dim=1)
    torch.testing.assert_close(model(longer)[:, :6], model(x), rtol=0, atol=1e-12)


def test_a_sequence_does_not_depend_on_its_neighbours():
    model, x = transformer().eval(), sequences()
    torch.testing.assert_close(torch.cat([model(row[None]) for row in x]), model(x), rtol=0, atol=1e-12)


def test_the_last_norm_is_applied_to_the_blocks():
    model, x = transformer(), sequences()
    model.eval()
    expected = nn.functional.layer_norm(model.blocks[1](model.blocks[0](x)), (8,))
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)


def test_dropout_acts_in_training_only():
    model, x = transformer(), sequences()
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def test_attention_has_its_own_dropout():
    """With the residual dropout taken out, what is still random is the attention."""
    model, x = transformer(num_blocks=1, dropout=0.5), sequences()
    model.blocks[0].dropout.p = 0.0
    first, second = model.train()(x), model(x)
    assert not torch.equal(first, second)
    model.blocks[0].attention_dropout = 0.0
    assert torch.equal(model(x), model(x))


def test_weights_start_small_and_biases_at_zero():
    torch.manual_seed(0)
    model = CausalTransformer(64, 2, 2, 0.1)
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert len(linear) == 8
    assert all(layer.weight.std().item() == pytest.approx(0.02, rel=0.05) for layer in linear)
    assert all((layer.bias == 0).all() for layer in linear)


def test_the_last_state_is_at_the_last_real_slot():
    states = torch.arange(24.0).view(3, 4, 2)
    assert last_state(states, torch.tensor([1, 4, 2])).tolist() == [[0, 1], [14, 15], [18, 19]]
