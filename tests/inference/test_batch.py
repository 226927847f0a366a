"""Lists for a file of users are those of each user alone, in one process or several; bad files write nothing."""

from __future__ import annotations

import os
import stat

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffrec.baselines import Popularity
from diffrec.data.vocabulary import Vocabulary
from diffrec.errors import DiffrecError, IntegrityError, NotFoundError, UsageError
from diffrec.inference.batch import Shard, read_users, recommend_file
from diffrec.models import HSTU, DreamRec, SASRec

IDS = tuple(f"f{number}" for number in range(1, 31))
TITLES = ("Sting, The (1973)", *(f"Film {number}" for number in range(2, 31)))
VOCABULARY = Vocabulary(IDS, TITLES)


@pytest.fixture(scope="module", params=[SASRec, DreamRec])
def model(request):
    torch.manual_seed(0)
    model = request.param(30, **({"num_train_timesteps": 8} if request.param is DreamRec else {}))
    model.vocabulary = VOCABULARY
    return model.eval()


def written(tmp_path, columns, name="users.parquet"):
    path = tmp_path / name
    pq.write_table(pa.table(columns), path)
    return path


def lists(table):
    """user -> item ids by rank."""
    rows = table.to_pydict()
    assert rows.keys() == {"user_id", "rank", "item_id", "score"}
    found = {}
    for user, rank, item in zip(rows["user_id"], rows["rank"], rows["item_id"], strict=True):
        found.setdefault(user, []).append(item)
        assert rank == len(found[user])
    return found


HISTORIES = {"u1": ["f3", "f9", "f3"], "u2": [], "u3": ["f30"], "7": [f"f{n}" for n in range(1, 26)]}


def as_lists(tmp_path):
    return written(tmp_path, {"user_id": list(HISTORIES), "items": pa.array(HISTORIES.values(), pa.list_(pa.string()))})


def test_every_user_gets_the_list_of_that_user_alone(model, tmp_path):
    out = tmp_path / "deep" / "lists.parquet"
    done = recommend_file(model, as_lists(tmp_path), out, k=7, seed=3, batch_size=3)
    found = lists(pq.read_table(out))
    for user, history in HISTORIES.items():
        alone = model.recommend(history, k=7, seed=3).items[0].tolist()
        assert found[user] == [IDS[number - 1] for number in alone if number], user
        assert not {*found[user]} & {*history}
    assert (done.path, done.users, done.left_out) == (out, 4, 0)
    assert done.rows == 3 * 7 + 5, "a history of 25 of 30 leaves five"
    assert list(found) == list(HISTORIES), "in the order of the file"


def test_the_seed_reaches_the_noise(tmp_path):
    torch.manual_seed(0)
    model = DreamRec(30, num_train_timesteps=8).eval()
    model.vocabulary = VOCABULARY
    source = written(tmp_path, {"user_id": ["u"], "items": [["f3"]]})
    recommend_file(model, source, tmp_path / "out.parquet", 5, seed=3)
    told = pq.read_table(tmp_path / "out.parquet")["score"].to_pylist()
    mine, other = (model.recommend(["f3"], 5, seed=seed).scores[0].tolist() for seed in (3, 0))
    assert told == pytest.approx(mine, rel=1e-5)
    assert told != pytest.approx(other, rel=1e-5)


@torch.no_grad()
def test_times_of_the_file_are_told_to_a_model_that_reads_them(tmp_path):
    torch.manual_seed(0)
    model = HSTU(30, embedding_size=8, max_history_length=5).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.vocabulary = VOCABULARY
    columns = {"user_id": ["u"] * 3, "item_id": ["f1", "f2", "f3"], "timestamp": [0, 10**5, 10**8]}
    recommend_file(model, written(tmp_path, columns), tmp_path / "out.parquet", 5)
    told, history = pq.read_table(tmp_path / "out.parquet")["score"].to_pylist(), torch.tensor([[1, 2, 3]])
    timed = model.recommend(history, 5, times=torch.tensor([[0, 10**5, 10**8]])).scores[0].tolist()
    assert told == pytest.approx(timed, rel=1e-4)
    assert told != pytest.approx(model.recommend(history, 5).scores[0].tolist(), rel=1e-4)


def test_shards_are_parts_of_the_whole(model, tmp_path):
    source = as_lists(tmp_path)
    recommend_file(model, source, tmp_path / "lists.parquet", k=5)
    parts = [Shard(rank, 3) for rank in range(3)]
    files = [recommend_file(model, source, tmp_path / "lists.parquet", k=5, shard=part).path for part in parts]
    assert [path.name for path in files] == [f"lists-0000{rank}-of-00003.parquet" for rank in range(3)]
    together = pa.concat_tables([pq.read_table(path) for path in files])
    whole = pq.read_table(tmp_path / "lists.parquet")
    assert together.drop(["score"]).equals(whole.drop(["score"]))
    np.testing.assert_allclose(together["score"], whole["score"], rtol=1e-4, atol=1e-5)


@given(st.integers(0, 1000), st.integers(1, 40))
@settings(max_examples=200)
def test_every_user_is_in_one_shard(count, world_size):
    rows = np.concatenate([np.arange(count)[Shard(rank, world_size).of(count)] for rank in range(world_size)])
    assert rows.tolist() == list(range(count))


@pytest.mark.parametrize("variables", [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "-1"}, {"WORLD_SIZE": "two"}])
def test_variables_of_no_process_group(variables):
    with pytest.raises(UsageError, match="RANK and WORLD_SIZE must be whole numbers"):
        Shard.of_environment(variables)
    assert Shard.of_environment({"RANK": "1", "WORLD_SIZE": "2"}) == Shard(1, 2)
    assert Shard.of_environment({}) == Shard(0, 1)


def test_a_row_for_each_interaction_in_time_order(tmp_path):
    users = read_users(
        written(
            tmp_path,
            {
                "user_id": [5, 4, 5, 5],
                "item_id": ["f1", "f2", "f3", "f4"],
                "timestamp": [30, 5, 20, 30],
                "rating": [1] * 4,
            },
        ),
        VOCABULARY,
    )
    assert users.ids.tolist() == ["5", "4"]
    assert [users.history[row].tolist() for row in range(2)] == [[3, 1, 4], [2]]
    assert users.times is not None
    assert users.times[0].tolist() == [20, 30, 30]


def test_titles_as_people_write_them(tmp_path):
    path = written(tmp_path, {"user_id": ["a"], "titles": [["the sting (1973)", "Film 7"]]})
    assert read_users(path, VOCABULARY).history[0].tolist() == [1, 7]
    path = written(tmp_path, {"user_id": ["a", "b"], "title": ["Film 7", "Film 9"]})
    assert read_users(path, VOCABULARY).history.values.tolist() == [7, 9]


def test_ids_are_matched_exactly_and_whole_numbers_are_ids_too(tmp_path):
    numbers = Vocabulary(("10", "7", "007"))
    path = written(tmp_path, {"user_id": [1], "items": [[7, 10]]})
    assert read_users(path, numbers).history[0].tolist() == [2, 1]
    for near in ("F3", " f3", "f3 ", "Film 3"):
        with pytest.raises(NotFoundError, match="1 item id that the model does not know, in 1 places"):
            read_users(written(tmp_path, {"user_id": ["a"], "items": [[near]]}), VOCABULARY)


def test_unknown_items_are_named_with_near_matches_or_left_out(tmp_path):
    path = written(tmp_path, {"user_id": ["a", "b"], "items": [["f3", "g30", "zzz"], ["g30"]]})
    message = r"2 item ids that .* in 3 places \(--skip-unknown .*\): 'g30'; did you mean 'f30'\? 'zzz'$"
    with pytest.raises(NotFoundError, match=message):
        read_users(path, VOCABULARY)
    users = read_users(path, VOCABULARY, skip_unknown=True)
    assert [users.history[row].tolist() for row in range(2)] == [[3], []]
    assert users.left_out == 3
    many = written(tmp_path, {"user_id": ["a"], "titles": [[f"Nothing {n}" for n in range(9)]]})
    with pytest.raises(NotFoundError, match=r"9 titles that .*'Nothing 4' and 4 more$"):
        read_users(many, VOCABULARY)


BAD = {
    "no user": ({"user": ["a"], "items": [["f1"]]}, "has the columns user, items; .*; is 'user' the user_id"),
    "no items": ({"user_id": ["a"], "film": ["f1"]}, "has the columns user_id, film; needed are"),
    "two histories": ({"user_id": ["a"], "items": [["f1"]], "item_id": ["f1"]}, "needed are"),
    "no lists": ({"user_id": ["a"], "items": ["f1"]}, "'items' must hold lists, it is string"),
    "a list of fractions": ({"user_id": ["a"], "items": [[1.5]]}, "must hold text or whole numbers, it holds double"),
    "an empty cell": ({"user_id": ["a", None], "items": [["f1"], []]}, "'user_id' is empty in place 2"),
    "an empty member": ({"user_id": ["a"], "items": [["f1", None]]}, "'items' is empty in place 2"),
    "no list": ({"user_id": ["a", "b"], "items": [["f1"], None]}, "'items' has no list in row 2; an empty list"),
    "a user twice": ({"user_id": ["a", "b", "a"], "items": [["f1"]] * 3}, "has the user 'a' twice"),
    "times that are none": (
        {"user_id": ["a"], "item_id": ["f1"], "timestamp": ["now"]}, "'timestamp' must hold whole seconds or times",
    ),
    "no time": ({"user_id": ["a"], "item_id": ["f1"], "timestamp": pa.array([None], pa.int64())}, "is empty in row 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_files_that_cannot_be_understood_write_nothing(name, tmp_path):
    columns, message = BAD[name]
    path, out = written(tmp_path, columns), tmp_path / "lists.parquet"
    with pytest.raises(UsageError, match=message):
        recommend_file(popular(), path, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["users.parquet"]


def popular():
    model = Popularity(30)
    model.vocabulary = VOCABULARY
    return model.eval()


def test_damaged_missing_and_identical_files(tmp_path):
    path, out = as_lists(tmp_path), tmp_path / "lists.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IntegrityError, match=r"users\.parquet is not a whole Parquet file"):
        recommend_file(popular(), path, out)
    for content in (b"user_id,items\n", b""):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"users\.parquet is no Parquet file; needed is one with user_id"):
            recommend_file(popular(), path, out)
    with pytest.raises(NotFoundError, match=r"there is no file .*nothing\.parquet"):
        recommend_file(popular(), tmp_path / "nothing.parquet", out)
    path.write_bytes(whole)
    with pytest.raises(UsageError, match="is the input"):
        recommend_file(popular(), path, tmp_path / "." / "users.parquet")
    assert path.read_bytes() == whole
    assert not out.exists()


def test_an_older_file_stays_where_the_new_one_cannot_be_made(tmp_path, monkeypatch):
    path, out = as_lists(tmp_path), tmp_path / "lists.parquet"
    out.write_bytes(b"older")

    def full(table, file, **options):
        file.write(b"PAR1")
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("diffrec.data.list_table.pq.write_table", full)
    with pytest.raises(DiffrecError, match=r"lists\.parquet could not be written \(No space left on device\)"):
        recommend_file(popular(), path, out)
    assert out.read_bytes() == b"older"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lists.parquet", "users.parquet"]
    assert stat.S_ISREG(out.stat().st_mode)


def test_no_users_is_an_empty_table(tmp_path):
    empty = {"user_id": pa.array([], pa.string()), "items": pa.array([], pa.list_(pa.string()))}
    out = tmp_path / "lists.parquet"
    assert recommend_file(popular(), written(tmp_path, empty), out).rows == 0
    assert pq.read_table(out).num_rows == 0
    assert pq.read_schema(out).field("user_id").type == pa.string(), "parts of a folder have one schema"
