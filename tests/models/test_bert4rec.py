"""BERT4Rec: against torch's own encoder, what is hidden, and what a request reads."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from diffrec.data.batch import Batch
from diffrec.models.bert4rec import BERT4Rec

HISTORY = torch.tensor([[4, 9, 2, 8], [7, 3, 0, 0]])


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = BERT4Rec(20, embedding_size=8, num_blocks=2, max_history_length=6, dropout=0.0).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def reference(model: BERT4Rec) -> nn.TransformerEncoder:
    """The blocks as layers of torch."""
    layer = nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", batch_first=True)
    theirs = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    names = {
        "self_attn.in_proj_": "qkv.", "self_attn.out_proj.": "out.", "linear1.": "feed.0.", "linear2.": "feed.2.",
        "norm1.": "norm_attention.", "norm2.": "norm_feed.",
    }  # fmt: skip
    for own, blocks in zip(theirs.layers, model.transformer.blocks, strict=True):
        state = blocks.state_dict()
        own.load_state_dict({a + end: state[b + end] for a, b in names.items() for end in ("weight", "bias")})
    return theirs


def test_a_request_is_answered_by_the_mark_behind_its_last_item(model):
    """By an encoder of torch on each history alone, left-padded as in the original."""
    encoder, table = reference(model), model.items.table.weight
    for row, items in zip(model.score(HISTORY), ([4, 9, 2, 8], [7, 3]), strict=True):
        x = torch.cat([table[items], model.hidden[None]]) + model.position.weight[-len(items) - 1 :]
        window = torch.cat([torch.randn(6 - len(x), 8), model.norm(x)])[None]
        padding = torch.arange(6)[None] < 6 - len(x)
        state = model.head(encoder(window, src_key_padding_mask=padding)[0, -1])
        torch.testing.assert_close(row, table[1:] @ state + model.bias, rtol=1e-4, atol=1e-4)


def test_the_loss_is_the_cross_entropy_of_what_is_hidden(model, monkeypatch):
    hidden = torch.tensor([[False, True, False, True], [True, False, False, False]])
    monkeypatch.setattr(model, "hide", lambda history: hidden)
    logits = model.head(model.states(HISTORY, hidden)[hidden]) @ model.items.table.weight[1:].T + model.bias
    expected = cross_entropy(logits, torch.tensor([9, 8, 7]) - 1)
    torch.testing.assert_close(model.training_loss(Batch(HISTORY, HISTORY[:, :0])), expected)


def test_what_is_hidden_reaches_no_state(model):
    hidden = torch.tensor([[False, True, False, True], [True, False, False, False]])
    others = torch.where(hidden, HISTORY + 5, HISTORY)
    assert torch.equal(model.states(others, hidden), model.states(HISTORY, hidden))
    seen = torch.where(hidden, HISTORY, (HISTORY + 5) * (HISTORY > 0))
    difference = (model.states(seen, hidden) - model.states(HISTORY, hidden)).abs().amax(2)
    assert (difference[HISTORY > 0] > 1e-4).all(), "every slot sees both sides"


@pytest.mark.parametrize(("share", "counts"), [(0.2, [2, 1, 2, 1]), (0.6, [5, 3, 6, 1]), (0.0, [1, 1, 1, 1])])
def test_a_share_of_every_sequence_is_hidden(share, counts):
    lengths = torch.tensor([8, 5, 10, 1])
    history = (torch.arange(10) < lengths[:, None]).long()
    model = BERT4Rec(20, embedding_size=8, mask_share=share, last_share=0.0)
    torch.manual_seed(0)
    drawn = torch.stack([model.hide(history) for _ in range(200)])
    assert (drawn.sum(2) == torch.tensor(counts)).all()
    assert not drawn[:, history == 0].any()
    often = drawn.float().mean(0)
    for row, length in enumerate(lengths.tolist()):
        expected = torch.full((length,), counts[row] / length)
        torch.testing.assert_close(often[row, :length], expected, rtol=0, atol=0.13)


def test_of_some_sequences_the_last_item_alone_is_hidden():
    history = torch.tensor([[4, 9, 2, 8, 5], [7, 3, 1, 0, 0]]).repeat(2000, 1)
    only_last = torch.tensor([[0, 0, 0, 0, 1], [0, 0, 1, 0, 0]]).repeat(2000, 1)
    torch.manual_seed(0)
    always = BERT4Rec(20, embedding_size=8, last_share=1.0).hide(history)
    assert torch.equal(always.long(), only_last)
    some = BERT4Rec(20, embedding_size=8, mask_share=0.4, last_share=0.25).hide(history)
    share = (some == only_last.bool()).all(1).float().view(-1, 2).mean(0)
    torch.testing.assert_close(share, torch.tensor([0.25, 0.25 + 0.75 / 3]), rtol=0, atol=0.03)


def test_a_request_leaves_one_slot_of_the_window_to_the_mark(model):
    longer = torch.tensor([[1, 4, 9, 2, 8, 5, 3]])
    torch.testing.assert_close(model.score(longer), model.score(longer[:, 2:]))
    assert not torch.allclose(model.score(longer[:, 2:]), model.score(longer[:, 3:]))


def test_it_learns_what_follows_what(ndcg, walks, popular):
    data = walks(16)
    torch.manual_seed(0)
    model = BERT4Rec(data.num_items, embedding_size=32, num_blocks=1, mask_share=0.4, lr=3e-3)
    assert ndcg(model, data, 40) > 2 * popular > 0.15
