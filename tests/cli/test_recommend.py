"""`diffrec recommend`: the history it understood, the list, and what it says when something is wrong."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch

from diffrec.cli import recommend
from diffrec.cli.main import main
from diffrec.data.synthetic import synthetic
from diffrec.data.vocabulary import Vocabulary
from diffrec.errors import NotFoundError, UsageError
from diffrec.models import DreamRec, SASRec
from diffrec.zoo import save

TITLES = ("Alien (1979)", "Aliens (1986)", "Godfather, The (1972)", "[bold]\x1b[31mRed[/] (1999)", "X" * 90)
TITLES = (*TITLES, *(f"Film {number} (2000)" for number in range(6, 31)))


@pytest.fixture(scope="module")
def sasrec(tmp_path_factory):
    """A folder with a model of 30 films whose titles may be stored."""
    torch.manual_seed(0)
    model = SASRec(30)
    model.vocabulary = Vocabulary(tuple(f"f{number}" for number in range(1, 31)), TITLES)
    return save(model, tmp_path_factory.mktemp("zoo") / "sasrec.films", include_titles=True)


@pytest.fixture(scope="module")
def dreamrec(tmp_path_factory):
    """A folder with a diffusion model without a vocabulary."""
    torch.manual_seed(0)
    return save(DreamRec(30, num_train_timesteps=20), tmp_path_factory.mktemp("zoo") / "dreamrec.numbers")


def answer(capsys, *words):
    parser = argparse.ArgumentParser()
    recommend.add_arguments(parser)
    assert recommend.run(parser.parse_args([str(word) for word in words])) == 0
    return capsys.readouterr().out


def test_the_table_names_the_history_and_ranks_items(sasrec, capsys):
    lines = answer(capsys, sasrec, "--history", "alien (1979), The Godfather (1972)", "-k", 7).splitlines()
    assert lines[0] == "history: Alien (1979) | Godfather, The (1972)"
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines if line.strip()[:1].isdigit()]
    assert [row[0] for row in rows] == [str(rank) for rank in range(1, 8)]
    scores = [float(row[-1]) for row in rows]
    assert scores == sorted(scores, reverse=True)


def test_the_json_is_what_the_model_says(sasrec, capsys):
    from diffrec.zoo import load

    told = json.loads(answer(capsys, sasrec, "--history", "f3,Aliens (1986)", "-k", 4, "--json"))
    best = load(sasrec).recommend(torch.tensor([[3, 2]]), 4)
    assert told["history"] == [{"id": "f3", "title": TITLES[2]}, {"id": "f2", "title": TITLES[1]}]
    assert [row["rank"] for row in told["recommendations"]] == [1, 2, 3, 4]
    assert [row["id"] for row in told["recommendations"]] == [f"f{number}" for number in best.items[0].tolist()]
    assert [row["score"] for row in told["recommendations"]] == best.scores[0].tolist()


def test_titles_from_a_file_cannot_steer_the_terminal(sasrec, capsys):
    out = answer(capsys, sasrec, "--history", "f4", "-k", 29, "--include-seen")
    assert "\x1b" not in out
    assert "[bold]?[31mRed[/] (1999)" in out
    assert "X" * 30 in out


def test_seen_items_come_back_only_if_asked(sasrec, capsys):
    def ids(*options):
        told = json.loads(answer(capsys, sasrec, "--history", "f1,f2", "-k", 30, "--json", *options))
        return {row["id"] for row in told["recommendations"]}

    everything = {f"f{number}" for number in range(1, 31)}
    assert ids() == everything - {"f1", "f2"}
    assert ids("--include-seen") == everything


def test_a_list_shorter_than_asked_for_is_told(sasrec, tmp_path, capsys):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for words, told in (
        (["-k", "31"], "28 items, not 31: all of the model but the 2 of the history\n"),
        (["-k", "1000000000000", "--include-seen"], "30 items, not 1,000,000,000,000: all of the model\n"),
        (["-k", "28"], ""),
    ):
        assert main(["recommend", str(sasrec), "--history", "f1,f2,f1", *words]) == 0
        assert capsys.readouterr().err == told
    users, lists = tmp_path / "users.parquet", tmp_path / "lists.parquet"
    pq.write_table(pa.table({"user_id": ["u", "v"], "items": [["f3", "f2"], ["f1"]]}), users)
    for k, short in ((29, ", 1 lists of fewer than 29 items"), (31, ", 2 lists of fewer than 31 items"), (28, "")):
        out = answer(capsys, sasrec, "--input", users, "--output", lists, "-k", k)
        assert out.splitlines()[0] == f"2 users, {min(57, 2 * k)} rows in {lists}{short}"


def test_seed_steps_and_guidance_reach_the_model(dreamrec, capsys):
    def scores(*options):
        told = json.loads(answer(capsys, dreamrec, "--history", "3,7", "--json", *options))
        return [(row["id"], row["score"]) for row in told["recommendations"]]

    assert scores() == scores("--seed", 0)
    different = [scores(), scores("--seed", 1), scores("--num-inference-steps", 4), scores("--guidance-scale", 1)]
    assert len({tuple(one) for one in different}) == 4


def test_settings_that_a_model_has_not_are_refused(sasrec, dreamrec, capsys):
    for option in ("--num-inference-steps", "--guidance-scale"):
        with pytest.raises(
            UsageError, match=f"SASRec has no {option[2:].replace('-', '_')}, so leave it out; it has: none"
        ):
            answer(capsys, sasrec, "--history", "f1", option, "2")
    with pytest.raises(UsageError, match=r"num_inference_steps must be a whole number in 1\.\.20, got 0"):
        answer(capsys, dreamrec, "--history", "1", "--num-inference-steps", "0")


def test_another_scheduler_is_a_word(dreamrec, sasrec, capsys):
    def ids(*options, of="id"):
        told = json.loads(answer(capsys, dreamrec, "--history", "3,7", "-k", 30, "--json", *options))
        return [row[of] for row in told["recommendations"]]

    scores = partial(ids, of="score")
    assert ids("--scheduler", "UniPCMultistepScheduler", "--num-inference-steps", 5) != ids("--num-inference-steps", 5)
    ways = ([], ["--scheduler", "DDPMScheduler"], ["--eta", 0], ["--scheduler", "DDIMScheduler"], ["--num-samples", 3])
    own, ddpm, ddim, named, samples = (scores("--num-inference-steps", 5, *words) for words in ways)
    assert own == ddpm != ddim == named
    assert own != samples != ddim
    with pytest.raises(NotFoundError, match="did you mean 'UniPCMultistepScheduler'"):
        ids("--scheduler", "UniPCMultiStep")
    with pytest.raises(UsageError, match="FlowMatchEulerDiscreteScheduler cannot be used"):
        ids("--scheduler", "FlowMatchEulerDiscreteScheduler")
    with pytest.raises(UsageError, match="SASRec has no scheduler"):
        answer(capsys, sasrec, "--history", "f1", "--scheduler", "DDIMScheduler")
    with pytest.raises(UsageError, match="SASRec has no eta"):
        answer(capsys, sasrec, "--history", "f1", "--eta", 0)


def test_the_items_that_speak_for_a_recommendation_are_named(sasrec, capsys):
    from diffrec.zoo import load

    told = json.loads(answer(capsys, sasrec, "--history", "f3,f2,f9", "-k", 2, "--json", "--explain"))
    assert told["explained_by"] == {"method": "vectors", "value": "cosine of the model's item vectors"}
    first = told["recommendations"][0]
    vectors = load(sasrec).item_embeddings
    cosine = torch.cosine_similarity(vectors[[2, 1, 8]], vectors[[int(first["id"][1:]) - 1]])
    expected = sorted(zip(cosine.tolist(), ("f3", "f2", "f9"), strict=True), reverse=True)[:2]
    assert [row["id"] for row in first["because"]] == [name for _, name in expected]
    assert [row["value"] for row in first["because"]] == pytest.approx([value for value, _ in expected], abs=1e-6)
    out = answer(capsys, sasrec, "--history", "f3,f2", "-k", 2, "--explain", "leave-one-out")
    assert out.splitlines()[-1] == "because of: how far the score falls without the item (leave-one-out)"
    assert max(map(len, out.splitlines())) <= 80


def test_a_file_of_users_gets_a_file_of_lists(sasrec, tmp_path, capsys):
    import pyarrow as pa
    import pyarrow.parquet as pq

    users, lists = tmp_path / "users.parquet", tmp_path / "lists.parquet"
    pq.write_table(pa.table({"user_id": ["u", "v"], "items": [["f3", "f2"], []]}), users)
    out = answer(capsys, sasrec, "--input", users, "--output", lists, "-k", 3)
    assert out.splitlines()[0] == f"2 users, 6 rows in {lists}"
    assert re.fullmatch(r"[\d,]+ users/s \([\d.]+ s; model loaded in [\d.]+ s\)", out.splitlines()[1])
    told = json.loads(answer(capsys, sasrec, "--history", "f3,f2", "-k", 3, "--json"))
    rows = pq.read_table(lists).slice(0, 3).to_pydict()
    assert rows["item_id"] == [row["id"] for row in told["recommendations"]]
    assert rows["user_id"] == ["u"] * 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input", "a.parquet"], "--input needs --output"),
        (["--input", "a.parquet", "--output", "b.parquet", "--explain"], "--explain belongs to --history"),
        (["--history", "f1", "--output", "b.parquet"], "--output belongs to --input"),
        (["--input", "a.parquet", "--output", "b.csv"], "b.csv would hold Parquet"),
        (["--history", "f1", "--skip-unknown"], "--skip-unknown belongs to --input"),
    ],
)
def test_options_of_the_other_kind_of_question(words, message, sasrec, capsys):
    with pytest.raises(UsageError, match=message):
        answer(capsys, sasrec, *words)


@pytest.mark.parametrize(
    ("history", "error", "message"),
    [
        ("Alien", NotFoundError, r"did you mean 'Alien \(1979\)'\?"),
        ("f1,Godfather (1972)", NotFoundError, r"did you mean 'Godfather, The \(1972\)'\?"),
        ("f31", NotFoundError, "no title or item id 'f31'"),
        (" , ", UsageError, "the history is empty"),
    ],
)
def test_histories_that_cannot_be_read(history, error, message, sasrec, capsys):
    with pytest.raises(error, match=message):
        answer(capsys, sasrec, "--history", history)


def test_a_gpu_that_there_is_not(sasrec, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for command in (["recommend", str(sasrec), "--history", "1"], ["tradeoff", str(sasrec)]):
        assert main([*command, "--device", "cuda"]) == 2
        assert "--device cuda needs a GPU that torch can use, and there is none" in capsys.readouterr().err


def test_a_wrong_name_is_told_without_torch(tmp_path):
    code = "import sys; from diffrec.cli.main import main; c = main(sys.argv[1:]); print(c, 'torch' in sys.modules)"
    for words in (["recommend", "nosuch", "--history", "1"], ["export", "nosuch"], ["fit", "-c", "nosuch"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path)
        assert done.stdout.split() == ["4", "False"], done.stderr


def test_a_missing_model_and_a_bad_k(sasrec, tmp_path, capsys):
    with pytest.raises(NotFoundError, match="no zoo entry in"):
        answer(capsys, tmp_path / "nothing", "--history", "f1")
    with pytest.raises(UsageError, match="k must be a whole number from 1, got 0"):
        answer(capsys, sasrec, "--history", "f1", "-k", 0)


def test_titles_are_borrowed_from_the_dataset(tmp_path, capsys):
    dataset = synthetic()
    folder = save(SASRec(dataset.num_items), tmp_path / "sasrec.synthetic", dataset=dataset)
    first, second = dataset.vocabulary.titles[:2]
    out = answer(capsys, folder, "--history", f"{first},{second}", "--offline", "-k", 100)
    assert out.splitlines()[0] == f"history: {first} | {second}"
    assert all(title in out for title in dataset.vocabulary.titles)


def test_without_the_dataset_the_command_that_fetches_it_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DIFFREC_CACHE", str(tmp_path / "empty"))
    monkeypatch.delenv("DIFFREC_DATA", raising=False)
    monkeypatch.setattr("diffrec.zoo.titles.load_dataset", lambda name: pytest.fail("would be fetched"))
    dataset = replace(synthetic(), name="ml-100k")
    folder = save(SASRec(dataset.num_items), tmp_path / "sasrec.films", dataset=dataset)
    assert main(["recommend", str(folder), "--history", "Alien (1979)"]) == 4
    command = "titles come with the dataset: run 'diffrec data fetch ml-100k'\n"
    assert capsys.readouterr().err.endswith(f"; {command}")
    assert main(["recommend", str(folder), "--history", "3,1", "-k", "2"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "history: 3 | 1"
    assert err == command
