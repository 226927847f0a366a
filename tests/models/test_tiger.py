"""TIGER: its beams beside scoring every item on its own, and where its codes come from."""

from __future__ import annotations

import pytest
import torch

from diffrec.data.batch import Batch
from diffrec.data.ragged import Ragged
from diffrec.data.vocabulary import Vocabulary
from diffrec.errors import NotFoundError, UsageError
from diffrec.models import TIGER
from diffrec.nn.artefacts import hash_of_texts, write_artefact

N = 30
CODES = torch.randint(0, 4, (N, 3), generator=torch.Generator().manual_seed(3))
ROWS = [[(7 * i + j) % N + 1 for j in range(6)] for i in range(40)]
HISTORY = torch.tensor([[4, 9, 2], [7, 0, 0], [0, 0, 0], [30, 1, 0]])


def model(**arguments) -> TIGER:
    torch.manual_seed(0)
    sizes = {"embedding_size": 12, "num_encoder_blocks": 1, "num_decoder_blocks": 2, "num_heads": 2, "head_size": 5}
    made = TIGER(N, num_levels=3, codebook_size=4, feed_size=16, max_history_length=5, **{**sizes, **arguments})
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    made.item_codes.fill(CODES)
    return made.eval()


@torch.no_grad()
def test_scores_of_wide_beams_are_those_of_each_item_alone():
    made = model(num_beams=64)
    scores = made.score(HISTORY)
    for item in range(1, N + 1):
        batch = Batch(HISTORY, torch.full((4, 1), item))
        states, visible = made.encoded(batch.history)
        tokens = made.item_codes.tokens(batch.target[:, 0])
        behind = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], dim=1)
        written = made.decoder(made.tokens(behind) + made.place, states, visible)
        alone = sum(
            made.logits(written[:, level], level).log_softmax(1)[:, int(CODES[item - 1, level])] for level in range(3)
        )
        torch.testing.assert_close(scores[:, item - 1], alone, rtol=1e-4, atol=1e-4)
    one = Batch(HISTORY[:1], torch.tensor([[17]]))
    torch.testing.assert_close(made.training_loss(one), -scores[0, 16] / 3, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_narrow_beams_keep_the_scores_of_what_they_find():
    wide, narrow = model(num_beams=64).score(HISTORY), model(num_beams=3).score(HISTORY)
    for row, exact in zip(narrow, wide, strict=True):
        found = row > row.min()
        assert 1 <= len(row[found].unique()) <= 3
        torch.testing.assert_close(row[found], exact[found], rtol=1e-4, atol=1e-4)


def test_items_of_one_tuple_share_a_score():
    scores = model().score(HISTORY)
    tuples = [tuple(row) for row in CODES.tolist()]
    first, second = next((i, j) for i in range(N) for j in range(i) if tuples[i] == tuples[j])
    assert torch.equal(scores[:, first], scores[:, second])


def test_codes_are_made_from_training_sequences_where_none_are_given():
    torch.manual_seed(0)
    made, sequences = TIGER(N, num_levels=3, codebook_size=16), Ragged.from_rows(ROWS)
    made.prepare(sequences)
    codes = made.item_codes.codes.clone()
    assert len(codes.unique(dim=0)) == N
    made.prepare(sequences)
    assert torch.equal(made.item_codes.codes, codes)
    strangers = Ragged.from_rows([[1, 2, 3], [2, 3, 1], [3, 1]])  # of 30 items, 27 are in no sequence
    made.prepare(strangers)
    assert len(made.item_codes.codes.unique(dim=0)) == N
    with pytest.raises(UsageError, match=r"items share 2 codes of 2, more than codebook_size = 2 can tell apart"):
        TIGER(N, num_levels=3, codebook_size=2).prepare(sequences)


def test_codes_of_a_file_must_fit(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFREC_CACHE", str(tmp_path))
    ids = tuple(map(str, range(N)))
    path, sequences = tmp_path / "codes" / "shop" / "c.safetensors", Ragged.from_rows([[1, 2]])
    write_artefact(path, {"codes": CODES.flip(0)}, {"items_sha256": hash_of_texts(ids)})
    for name in (str(path), "shop/c"):
        made = model(codes=name)
        made.vocabulary = Vocabulary(ids)
        made.prepare(sequences)
        assert torch.equal(made.item_codes.codes, CODES.flip(0))
    made.vocabulary = Vocabulary(ids[::-1])
    with pytest.raises(UsageError, match="were made for other items"):
        made.prepare(sequences)
    write_artefact(path, {"codes": CODES[:, :2]}, {})
    with pytest.raises(UsageError, match=r"codes of shape \(30, 3\) from 0 to below 4 are needed, got \(30, 2\)"):
        made.prepare(sequences)
    with pytest.raises(NotFoundError, match="'diffrec data tokenize' makes one"):
        model(codes="shop/none").prepare(sequences)


def test_the_rate_rises_over_the_warm_up(tmp_path):
    from diffrec.training.build import build

    small = ["--model.embedding_size=8", "--model.num_encoder_blocks=1", "--model.num_decoder_blocks=1"]
    words = [*small, "--model.warmup_steps=40", "--trainer.max_epochs=1", "--data.batch_size=256"]
    run = build(["model/tiger", "data/synthetic"], words, tmp_path)
    run.trainer.fit(run.model, run.data)
    steps = run.trainer.global_step
    assert 3 < steps < 40
    rate = run.trainer.optimizers[0].param_groups[0]["lr"]
    assert rate == pytest.approx(run.model.lr * steps / 40)
