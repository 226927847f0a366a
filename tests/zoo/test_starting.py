"""Starting from an entry: rows follow their items, new items get what their texts say, other models are refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import diffrec
from diffrec.cli.main import main
from diffrec.coded_items import CodedRecommender
from diffrec.data.ragged import Ragged
from diffrec.data.synthetic import synthetic
from diffrec.data.vocabulary import Vocabulary
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import UsageError
from diffrec.models import MODELS, DiffRec, DreamRec, LDiffRec, SASRec
from diffrec.nn.artefacts import artefact_path, hash_of_texts, write_artefact
from diffrec.nn.ridge import Ridge
from diffrec.testing.small_models import built
from diffrec.zoo.starting import carry, match_of, refuse_another_model, vectors_for

OWN_USERS = ("bpr-mf", "fpmc", "lightgcn")  # a table of users stays behind
RULES = ("rule-bridge",)  # of rules that are as strong, those of lower numbers are kept


def prepared(name, sequences, seed=0):
    model = built(name, seed=seed, num_items=100)
    if name == "ldiffrec":
        model = LDiffRec(100, num_clusters=1)
        torch.manual_seed(seed)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.prepare(sequences)
    return model.eval()


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {*OWN_USERS, *RULES}))
def test_the_model_of_renumbered_items_gives_the_renumbered_scores(name):
    """Whatever a model keeps for each item, wherever it keeps it, goes with the item."""
    sequences = synthetic().parts["all"].items
    renumber = np.concatenate([[0], 1 + np.random.default_rng(0).permutation(100)])  # old number -> new
    if isinstance(coded := built(name), CodedRecommender):  # codes are made of the data
        assert coded.cannot_start_from_another
        return
    if name == "prefergrow":  # an extra state stands behind the items, here and there
        with pytest.raises(UsageError, match="PreferGrow cannot start from another: where the items are in dislike"):
            refuse_another_model(coded, built(name), "entry")
        return
    source = prepared(name, sequences)
    model = prepared(name, Ragged(renumber[sequences.values].astype(np.int32), sequences.offsets), seed=1)
    assert carry(model, source, torch.from_numpy(np.argsort(renumber)[1:])) == []
    history = torch.from_numpy(sequences.padded(np.arange(40), 8))
    noise = RequestNoise.from_keys(torch.arange(40))
    with torch.inference_mode():
        expected = source.checked_scores(history, replace(noise))
        got = model.checked_scores(torch.from_numpy(renumber)[history], replace(noise))
    torch.testing.assert_close(got[:, renumber[1:] - 1], expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", OWN_USERS)
def test_users_of_the_source_stay_behind(name):
    sequences = synthetic().parts["all"].items
    source, model = prepared(name, sequences), prepared(name, sequences, seed=1)
    before = model.users.weight.clone()
    assert carry(model, source, torch.arange(1, 101)) == ["users.weight"]
    assert torch.equal(model.users.weight, before)
    assert torch.equal(model.items.table.weight, source.items.table.weight)


def test_new_items_start_as_the_model_starts_and_old_ones_are_found():
    torch.manual_seed(0)
    source, model = SASRec(5, embedding_size=4, num_heads=1), SASRec(7, embedding_size=4, num_heads=1)
    before = model.items.table.weight.clone()
    carry(model, source, torch.tensor([3, 0, 1, 0, 0, 5, 2]))
    rows, olds = model.items.table.weight, source.items.table.weight
    assert torch.equal(rows[[1, 3, 6, 7]], olds[[3, 1, 5, 2]])
    assert torch.equal(rows[[2, 4, 5]], before[[2, 4, 5]])
    assert torch.equal(rows[0], olds[0])


def test_both_ends_of_an_interaction_vector_are_carried():
    """The first layer of DiffRec has the coordinates of the time behind those of the items."""
    source, model = DiffRec(5, dims=(3,)), DiffRec(6, dims=(3,))
    carry(model, source, torch.tensor([0, 5, 4, 3, 2, 1]))
    first, firsts = model.denoiser.first.weight, source.denoiser.first.weight
    assert torch.equal(first[:, 1:6], firsts[:, :5].flip(1))
    assert torch.equal(first[:, 6:], firsts[:, 5:])
    assert torch.equal(model.denoiser.last.bias[1:], source.denoiser.last.bias.flip(0))


def test_texts_tell_where_a_new_item_lies():
    """Learnt rows are a linear function of the texts, so what ridge regression says of a new item is its row."""
    torch.manual_seed(0)
    vectors, to_row = torch.randn(60, 5), torch.randn(5, 4)
    source, model = SASRec(50, embedding_size=4, num_heads=1), SASRec(60, embedding_size=4, num_heads=1)
    with torch.no_grad():
        source.items.table.weight[1:] = vectors[:50] @ to_row + 2
    carry(model, source, torch.cat([torch.arange(1, 51), torch.zeros(10, dtype=torch.int64)]), vectors)
    torch.testing.assert_close(model.items.table.weight[51:], vectors[50:] @ to_row + 2, rtol=1e-2, atol=1e-2)


def test_ridge_gives_way_where_the_texts_say_nothing():
    torch.manual_seed(0)
    x, y = torch.randn(40, 30), torch.randn(40, 3)
    told = Ridge(x, torch.arange(30)).predict(y[:30], torch.arange(30, 40))
    assert (told - y[:30].mean(0)).norm() < 0.5 * (y[30:] - y[:30].mean(0)).norm()


def test_the_strength_is_the_one_with_the_least_error_of_leaving_out():
    """Against leaving rows out one by one."""
    torch.manual_seed(0)
    x, y = torch.randn(12, 4), torch.randn(12, 2)
    ridge = Ridge(x, torch.arange(12))
    shrunk = ridge._shrinking(0.1)
    strength, error = float(0.1 * ridge.s.square().mean()), 0.0
    for row in range(12):
        kept = [other for other in range(12) if other != row]
        a = torch.cat([x[kept], torch.ones(11, 1)], 1).double()
        penalty = torch.diag(torch.tensor([strength] * 4 + [0.0]).double())
        weights = torch.linalg.solve(a.T @ a + penalty, a.T @ y[kept].double())
        error += float((y[row].double() - torch.cat([x[row], torch.ones(1)]).double() @ weights).square().sum())
    assert ridge._error(shrunk, y, y.double().mean(0)) == pytest.approx(error, rel=1e-6)


def test_what_differs_is_said_with_the_words_that_mend_it():
    source = DreamRec(9, embedding_size=8, schedule="cosine")
    with pytest.raises(UsageError, match="entry is a DreamRec, the configuration builds a SASRec"):
        refuse_another_model(SASRec(9), source, "entry")
    told = (
        "embedding_size is 16, was 8; schedule is 'linear', was 'cosine'. "
        "To go on with it: --model.embedding_size=8 --model.schedule=cosine$"
    )
    with pytest.raises(UsageError, match=told):
        refuse_another_model(DreamRec(20, embedding_size=16, lr=1.0, dropout=0.5), source, "entry")
    with pytest.raises(UsageError, match="LDiffRec cannot start from entry: its layers are shared out by the clusters"):
        refuse_another_model(LDiffRec(9), LDiffRec(9), "entry")
    for name in ("ease", "tiger"):
        with pytest.raises(UsageError, match="cannot start from entry"):
            refuse_another_model(built(name), built(name), "entry")


ALIEN = Vocabulary(("1", "2", "3"), ("Alien (1979)", "Twice", "The Sting (1973)"))
OTHER = Vocabulary(("3", "2", "9", "8"), ("Sting, The (1973)", "alien  (1979)", "Twice", "Twice"))


def test_items_are_matched_by_id_or_by_title():
    assert ALIEN.matches(OTHER, "id").tolist() == [0, 2, 1]
    assert ALIEN.matches(OTHER, "title").tolist() == [2, 0, 1], "a title of two items matches none"
    assert OTHER.matches(ALIEN, "title").tolist() == [3, 1, 0, 0]


def test_titles_are_taken_between_datasets_and_ids_within_one():
    model = SASRec(4)
    model.vocabulary = OTHER
    data = replace(synthetic(), vocabulary=ALIEN)
    assert match_of(model, "elsewhere", data, None) == "title"
    assert match_of(model, data.name, data, None) == "id"
    assert match_of(model, "elsewhere", data, "id") == "id"
    model.vocabulary = Vocabulary(("a", "b", "c", "d"))
    with pytest.raises(UsageError, match="by its id: ids here look like '1', there like 'a'"):
        match_of(model, "elsewhere", data, None)
    with pytest.raises(UsageError, match="titles cannot be matched: the entry has none"):
        match_of(model, "elsewhere", data, "title")
    model.vocabulary = Vocabulary(OTHER.item_ids)
    told = f"{data.name} and elsewhere may number their items otherwise, .*: the entry has none\n--init-match id takes"
    with pytest.raises(UsageError, match=told):
        match_of(model, "elsewhere", data, None)
    assert match_of(model, "elsewhere", data, "id") == match_of(model, data.name, data, None) == "id"
    model.vocabulary = Vocabulary(("b00", "7"))
    assert match_of(model, "elsewhere", replace(data, vocabulary=Vocabulary(("b00", "9"))), None) == "id"
    model.vocabulary = None
    with pytest.raises(UsageError, match="trained on item numbers alone"):
        match_of(model, None, data, None)


def test_vectors_of_these_items_only(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFREC_CACHE", str(tmp_path))
    data = synthetic()
    assert vectors_for(data) is None
    for name, ids in (("other", ["x"]), ("mine", data.vocabulary.item_ids)):
        facts = {"items_sha256": hash_of_texts(ids)}
        write_artefact(artefact_path("vectors", f"{data.name}/{name}"), {"vectors": torch.eye(2)}, facts)
    assert vectors_for(data) == f"{data.name}/mine"


def test_fit_begins_where_the_entry_ended_and_says_what_matched(tmp_path, capsys):
    torch.manual_seed(0)
    source = SASRec(100, embedding_size=8, num_blocks=1, num_heads=1)
    entry = diffrec.save(source, tmp_path / "sasrec.synthetic", dataset=synthetic())
    words = ["fit", "-c", "model/sasrec", "-c", "data/synthetic", "--run-dir", str(tmp_path / "run"), "--quiet",
             "--trainer.logger=false", "--trainer.max_epochs=1", "--model.lr=0", "--model.embedding_size=8",
             "--model.num_heads=1"]  # fmt: skip
    assert main([*words, "--init-from", str(entry)]) == 2
    assert "num_blocks is 2, was 1. To go on with it: --model.num_blocks=1" in capsys.readouterr().err
    assert main([*words, "--model.num_blocks=1", "--init-from", str(entry)]) == 0
    told = f"starting from {entry}: 100 of 100 items matched by id, 0 are new"
    assert capsys.readouterr().out.splitlines()[0] == told
    weights = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for name, tensor in source.state_dict().items():
        assert torch.equal(weights[name], tensor), name
    report = json.loads((tmp_path / "run" / "start.json").read_text())
    assert (report["matched"], report["match"], report["model"]) == (100, "id", "SASRec")
    assert main([*words, "--resume", "auto", "--init-from", str(entry)]) == 2
