"""gSASRec: the encoder of the official code, and its loss at the positions of a batch."""

from __future__ import annotations

import pytest
import torch

from diffrec.data.batch import Batch
from diffrec.models.gsasrec import GSASRec

NAMES = {
    "norm_attention": "norm1", "norm_feed": "norm2", "query": "attn.q", "key": "attn.k", "value": "attn.v",
    "feed.0": "ffn.fc1", "feed.3": "ffn.fc2",
}  # fmt: skip


@pytest.fixture
def arrays(golden):
    return golden("gsasrec")


@pytest.fixture
def model(arrays):
    """With the weights of the official code: 40 items, whose padding is number 41."""
    model = GSASRec(40, embedding_size=8, num_heads=2, max_history_length=6, num_negatives=5).eval()
    state = {f"transformer.norm.{end}": arrays[f"net.norm_out.{end}"] for end in ("weight", "bias")}
    for block in range(2):
        for ours, theirs in NAMES.items():
            for end in ("weight", "bias"):
                state[f"transformer.blocks.{block}.{ours}.{end}"] = arrays[f"net.block.{block}.{theirs}.{end}"]
    state["position.weight"] = arrays["net.position_table"]
    state["items.table.weight"], state["outputs.table.weight"] = (
        arrays[f"net.{name}_table"][:41] for name in ("item", "output")
    )
    model.load_state_dict(state)
    return model


@pytest.fixture
def history(arrays):
    """The golden sequences, with padding moved to the right."""
    items = arrays["enc.items"]
    lengths = (items < 41).sum(1)
    rows = [row[6 - length :] for row, length in zip(items, lengths.tolist(), strict=True)]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def test_states_and_scores_are_those_of_the_official_code(model, history, arrays):
    states = model.states(history)
    lengths = (history > 0).sum(1).tolist()
    assert lengths == [6, 1, 4, 5]
    for row, length in enumerate(lengths):
        expected = arrays["enc.hidden"][row, 6 - length :]
        torch.testing.assert_close(states[row, :length], expected, rtol=1e-4, atol=1e-5)
    scores = model.score(history)
    torch.testing.assert_close(scores, arrays["enc.last_scores"][:, 1:41], rtol=1e-4, atol=1e-5)
    assert torch.equal(model.recommend(history, 5, exclude_seen=False).items, arrays["enc.top5"])


def test_the_loss_is_gbce_against_the_table_of_the_outputs(model, history, monkeypatch):
    """With the drawn negatives known, by its definition: -beta log sigmoid(s+) - sum of log sigmoid(-s-)."""
    target = torch.where(history > 0, history % 40 + 1, 0)
    drawn = torch.randint(40, (16, 5))
    monkeypatch.setattr(torch, "randint", lambda high, size, device: drawn)
    table, states, wanted = model.outputs.table.weight[1:].double(), model.states(history).double(), []
    share = 5 / 39
    beta = share * (0.75 * (1 - 1 / share) + 1 / share)
    for position, (row, slot) in enumerate((history > 0).nonzero().tolist()):
        at = int(target[row, slot]) - 1
        loss = -beta * torch.sigmoid(states[row, slot] @ table[at]).log()
        for item in drawn[position].tolist():
            loss = loss - torch.sigmoid(-states[row, slot] @ table[item]).log() * (item != at)
        wanted.append(loss / 6)
    loss = model.training_loss(Batch(history, target))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), torch.stack(wanted).mean(), rtol=1e-4, atol=1e-5)


def test_tied_tables_are_one():
    torch.manual_seed(0)
    tied = GSASRec(9, embedding_size=4, max_history_length=3, tied=True)
    own = GSASRec(9, embedding_size=4, max_history_length=3)
    assert tied.candidates is tied.items
    assert own.candidates is not own.items
    assert sum(p.numel() for p in own.parameters()) - sum(p.numel() for p in tied.parameters()) == 10 * 4


def test_it_learns_what_follows_what(ndcg, walks, popular):
    data = walks(16)
    torch.manual_seed(0)
    small = {"embedding_size": 32, "num_blocks": 1, "max_history_length": 50, "num_negatives": 16}
    model = GSASRec(data.num_items, **small, dropout=0.2, lr=3e-3)
    assert ndcg(model, data, 20) > 2 * popular > 0.15
