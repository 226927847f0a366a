"""SASRec on frozen vectors: where they come from, and what an item is."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from diffrec.data.batch import Batch
from diffrec.data.ragged import Ragged
from diffrec.errors import UsageError
from diffrec.models import SASRecText
from diffrec.nn.artefacts import write_artefact
from diffrec.nn.principal import whitened

N = 15
ROWS = Ragged.from_rows([[(7 * i + j) % N + 1 for j in range(5)] for i in range(20)])
HISTORY = torch.tensor([[4, 9, 2], [7, 0, 0]])


def model(**arguments) -> SASRecText:
    torch.manual_seed(0)
    return SASRecText(N, vector_size=4, embedding_size=8, max_history_length=4, **arguments).eval()


def test_vectors_are_whitened_when_training_starts_and_stay(tmp_path):
    raw = torch.randn(N, 6)
    write_artefact(tmp_path / "v.safetensors", {"vectors": raw}, {})
    made = model(item_vectors=str(tmp_path / "v.safetensors"))
    made.prepare(ROWS)
    torch.testing.assert_close(made.vectors, whitened(raw, 4).float())
    assert not made.vectors.requires_grad
    assert "vectors" in made.state_dict()


@torch.no_grad()
def test_an_item_is_what_its_vector_is_read_as():
    made = model()
    made.prepare(ROWS)
    assert made.vectors.any(dim=1).all()
    scores = made.score(HISTORY)
    expected = torch.stack([made.states(HISTORY)[0, 2], made.states(HISTORY)[1, 0]]) @ made.read(made.vectors).T
    torch.testing.assert_close(scores, expected)
    made.vectors[3] = made.vectors[11]
    torch.testing.assert_close(made.score(HISTORY)[:, 3], made.score(HISTORY)[:, 11])


@torch.no_grad()
def test_learned_vectors_tell_items_of_one_text_apart():
    made = model(learn_ids=True)
    made.vectors[3] = made.vectors[11]
    difference = made.table()[3] - made.table()[11]
    torch.testing.assert_close(difference, made.ids.table.weight[4] - made.ids.table.weight[12])
    assert difference.abs().sum() > 0


@pytest.mark.parametrize("unmet_negatives", [True, False])
def test_items_that_training_never_meets_may_be_left_out_of_it(unmet_negatives):
    rows = Ragged.from_rows([[1, 2, 4], [5, 7, 8]])
    made = model(unmet_negatives=unmet_negatives, learn_ids=True, dropout=0.0)
    made.prepare(rows)
    made.vectors.copy_(torch.randn_like(made.vectors))
    batch = Batch(history=torch.tensor([[1, 2], [5, 7]]), target=torch.tensor([[2, 4], [7, 8]]))
    loss = made.training_loss(batch)
    logits = made.states(batch.history) @ made.table().T
    if not unmet_negatives:
        unmet = [column for column in range(N) if column + 1 not in rows.values]
        logits[..., unmet] = float("-inf")
    torch.testing.assert_close(loss, cross_entropy(logits.flatten(0, 1), batch.target.flatten() - 1))
    loss.backward()
    slopes = made.ids.table.weight.grad[1:].abs().sum(1)
    met = torch.isin(torch.arange(1, N + 1), torch.as_tensor(rows.values))
    assert (slopes[met] > 0).all()
    assert bool((slopes[~met] > 0).all()) == unmet_negatives
    assert made.score(batch.history).shape == (2, N)  # all items may be recommended


def test_vectors_of_other_items_are_refused(tmp_path):
    write_artefact(tmp_path / "v.safetensors", {"vectors": torch.randn(3, 6)}, {})
    with pytest.raises(UsageError, match="vectors of 15 items and a width of at least 4 are needed, got 3 of width 6"):
        model(item_vectors=str(tmp_path / "v.safetensors")).prepare(ROWS)
