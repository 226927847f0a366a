"""Lists through an approximate index of the items."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from diffrec.cli.main import main
from diffrec.errors import UsageError
from diffrec.inference.index import ItemIndex
from diffrec.models.dreamrec import DreamRec
from diffrec.models.flowcf import FlowCF
from diffrec.models.rule_bridge import RuleBridge
from diffrec.models.sasrec import SASRec
from diffrec.testing.conformance import requests
from diffrec.zoo import save

pytest.importorskip("faiss")

READOUTS = ("inner_product", "cosine", "euclidean")


def dreamrec(**arguments) -> DreamRec:
    torch.manual_seed(0)
    return DreamRec(500, embedding_size=8, num_train_timesteps=10, **arguments).eval()


@pytest.fixture(scope="module")
def histories():
    return requests(np.arange(100) % 9)


@pytest.mark.parametrize("readout", READOUTS)
def test_an_index_that_looks_at_everything_gives_the_lists_of_the_model(readout, histories):
    model = dreamrec(readout=readout, num_samples=2)
    index = ItemIndex(model, "IVF20,Flat", visited=20)
    for seen in (True, False):
        got, expected = (of.recommend(histories, 7, exclude_seen=seen, seed=3) for of in (index, model))
        assert torch.equal(got.items, expected.items)
        torch.testing.assert_close(got.scores, expected.scores)
    assert index.recall(histories, 7) == 1
    assert index.recommend(histories, 1000).items.shape == (100, 500)


def test_recall_tells_what_a_narrow_search_misses(histories):
    model = SASRec(500, embedding_size=16, max_history_length=10).eval()
    narrow, wide = (ItemIndex(model, "IVF40,Flat", visited).recall(histories) for visited in (1, 35))
    assert 0 < narrow < 0.9
    assert wide > 0.95


def test_seen_items_stay_out_and_short_lists_end_in_padding(histories):
    model = dreamrec()
    got = ItemIndex(model, "IVF20,Flat", visited=1).recommend(histories, 200)
    assert (got.items == 0).any()
    assert torch.equal(got.items == 0, torch.isneginf(got.scores))
    for row, history in zip(got.items.tolist(), histories.tolist(), strict=True):
        listed = [item for item in row if item]
        assert row[: len(listed)] == listed
        assert len({*listed}) == len(listed)
        assert not {*listed} & {*history}


def test_what_no_index_can_hold_is_refused(unchecked_types):
    for model in (FlowCF(20, dims=[4]), RuleBridge(20, embedding_size=4, max_history_length=5)):
        with pytest.raises(UsageError, match=f"{type(model).__name__} does not compare one vector"):
            ItemIndex(model)
    with pytest.raises(UsageError, match=r"must lie in 1\.\.500"):
        ItemIndex(dreamrec()).recommend(torch.tensor([[501]]))
    with pytest.raises(UsageError, match="faiss makes no index 'nothing' of 500 items"):
        ItemIndex(dreamrec(), "nothing")


def test_a_file_of_users_through_an_index(tmp_path, capsys):
    entry = save(dreamrec(), tmp_path / "entry")
    pq.write_table(pa.table({"user_id": ["a", "b"], "items": [["1", "2"], ["3"]]}), tmp_path / "in.parquet")
    command = [
        "recommend",
        str(entry),
        "--input",
        str(tmp_path / "in.parquet"),
        "--output",
        str(tmp_path / "out.parquet"),
    ]
    assert main([*command, "--index", "HNSW16", "--index-visited", "64"]) == 0
    assert "HNSW16 (made in " in (told := capsys.readouterr().out)
    assert "of the exact lists" in told
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 20
    assert main([*command, "--index-visited", "64"]) == 2
    assert "--index-visited belongs to --index" in capsys.readouterr().err
    assert main(["recommend", str(entry), "--history", "1", "--index"]) == 2
    assert "--index belongs to --input" in capsys.readouterr().err
