"""DreamRec's encoder against attention written with loops; golden numbers are in tests/models."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import layer_norm

from diffrec.nn.history_encoder import SelfAttentionEncoder

DIM, LENGTH = 6, 5


def encoder(num_heads: int = 1, dropout: float = 0.2, double_residual: bool = False) -> SelfAttentionEncoder:
    torch.manual_seed(0)
    return SelfAttentionEncoder(DIM, LENGTH + 3, num_heads, dropout, double_residual).double().eval()


def batch(lengths: list[int], width: int = LENGTH) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings, noise on the padding too, and which slots are real."""
    generator = torch.Generator().manual_seed(1)
    embedded = torch.randn(len(lengths), LENGTH + 3, DIM, generator=generator, dtype=torch.float64)[:, :width]
    return embedded, torch.arange(width) < torch.tensor(lengths)[:, None]


def slow_state(model: SelfAttentionEncoder, items: torch.Tensor) -> torch.Tensor:
    """The state at the last of `items` (length, dim), one head after another."""
    sequence = items + model.position.weight[: len(items)]
    normed = model.norm_in(sequence)
    query, key, value = model.query(normed)[-1], model.key(sequence), model.value(sequence)
    size = DIM // model.num_heads
    parts = []
    for head in range(model.num_heads):
        at = slice(head * size, (head + 1) * size)
        logits = torch.stack([query[at] @ k[at] for k in key]) / math.sqrt(DIM)
        parts.append(sum(w * v[at] for w, v in zip(logits.softmax(0), value, strict=True)))
    attended = torch.cat(parts) + normed[-1]
    if model.double_residual:
        attended = attended + sequence[-1]
    state = model.norm_mid(attended)
    fed = model.norm_feed(model.feed_out(torch.relu(model.feed_in(state))) + state)
    return model.norm_out(fed + attended if model.double_residual else fed)


@pytest.mark.parametrize("double_residual", [False, True])
@pytest.mark.parametrize("num_heads", [1, 2, 3])
def test_the_state_of_the_last_item(num_heads, double_residual):
    model = encoder(num_heads, double_residual=double_residual)
    lengths = [5, 1, 3]
    embedded, real = batch(lengths)
    expected = torch.stack([slow_state(model, row[:length]) for row, length in zip(embedded, lengths, strict=True)])
    torch.testing.assert_close(model(embedded, real), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("double_residual", [False, True])
def test_padding_changes_nothing(double_residual):
    model = encoder(double_residual=double_residual)
    state = model(*batch([5, 1, 3, 0]))
    torch.testing.assert_close(model(*batch([5, 1, 3, 0], width=LENGTH + 3)), state, rtol=0, atol=1e-12)
    embedded, real = batch([5, 1, 3, 0])
    embedded[~real] = 1e3
    torch.testing.assert_close(model(embedded, real), state, rtol=0, atol=1e-12)


def test_every_item_and_its_place_count():
    model = encoder()
    embedded, real = batch([4])
    before = model(embedded, real)
    for place in range(4):
        changed = embedded.clone()
        changed[:, place] += torch.linspace(-1, 1, DIM, dtype=torch.float64)
        assert (model(changed, real) - before).abs().max() > 1e-6
    swapped = embedded[:, [1, 0, 2, 3, 4]]
    assert (model(swapped, real) - before).abs().max() > 1e-6


def test_an_empty_history_has_one_state_whatever_stands_in_its_slots():
    model = encoder()
    states = model(*batch([0, 0]))
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], layer_norm(torch.zeros(DIM).double(), (DIM,)))


def test_dropout_acts_in_training_only():
    model, (embedded, real) = encoder(dropout=0.5), batch([5, 4])
    assert torch.equal(model(embedded, real), model(embedded, real))
    model.train()
    assert not torch.equal(model(embedded, real), model(embedded, real))
    model.dropout.p = 0.0
    assert not torch.equal(model(embedded, real), model(embedded, real)), "attention has its own"
    model.attention_dropout = 0.0
    assert torch.equal(model(embedded, real), model(embedded, real))
