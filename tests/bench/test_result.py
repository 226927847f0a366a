from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import torch

from diffrec.bench.ranks import ranks_of
from diffrec.bench.result import (
    MAY_EXCEED_ONE,
    SCHEMA_VERSION,
    Beams,
    Bounds,
    Decoding,
    RestsOn,
    ranks_path,
    read_result,
    read_results,
    result_path,
    schema,
    sha256_of,
)
from diffrec.errors import IntegrityError
from diffrec.metrics.functional import metrics_from_ranks
from diffrec.paths import resource_dir


def seal(record):
    """The record with the checksum that its content should have."""
    content = {key: value for key, value in record.items() if key != "record_sha256"}
    return {**content, "record_sha256": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


def leaves(tree, path=()):
    """Every place of a JSON tree that holds no mapping or list with something in it."""
    if isinstance(tree, (dict, list)) and tree:
        for key, child in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(child, (*path, key))
    else:
        yield path


def changed(value):
    if isinstance(value, bool) or value is None:
        return "x"
    return value + "x" if isinstance(value, str) else [1] if isinstance(value, (dict, list)) else value + 1


@pytest.fixture
def written(result, put_result, tmp_path):
    path = put_result(result("ease", seed=2), tmp_path)
    return path, json.loads(path.read_text())


def test_a_record_comes_back_as_it_was(result, put_result, tmp_path):
    for original in (result("ease", seed=2), result("x-off", role="control", control_of="x")):
        path = put_result(original, tmp_path)
        assert path == tmp_path / result_path("quick", "ml-100k", original.model, original.seed)
        assert replace(read_result(path), ranks_sha256=None) == original
    assert [r.model for r in read_results(tmp_path)] == ["ease", "x-off"]


BEAMS = Beams(20, True, invalid=0.0, repeated=0.0, lost=0.25, shared=0.125, short={"10": 0.0, "20": 0.5})


def test_how_semantic_ids_were_decoded_is_a_field_that_other_records_lack(written, result, put_result, tmp_path):
    assert "decoding" not in written[1]
    stated = {"model": {"class_path": "x", "init_args": {"num_beams": 20}}}
    assert result("tiger", config=stated).num_beams == 20  # in records from before
    assert result("tiger", config={**stated, "decoding": {"num_beams": 50}}).num_beams == 50
    assert result("maskgr", config={**stated, "decoding": {"exact": True}}).num_beams is None
    for decoding in (Decoding(0.5, BEAMS), Decoding(0.5, None)):
        path = put_result(result("tiger", decoding=decoding), tmp_path)
        assert read_result(path).decoding == decoding
        assert read_result(path).num_beams == (decoding.beams and 20)
        assert not list(jsonschema.Draft202012Validator(schema()).iter_errors(json.loads(path.read_text())))
    with pytest.raises(IntegrityError, match=r"the shares of decoding must lie in 0..1"):
        put_result(result("tiger", decoding=Decoding(0.5, replace(BEAMS, lost=1.5))), tmp_path)


def test_what_a_run_rests_on_is_a_field_that_other_records_lack(written, result, put_result, tmp_path):
    assert "rests_on" not in written[1]
    told = RestsOn("a" * 64, "b" * 64, {"model.item_vectors": "c" * 64})
    path = put_result(result("dreamrec", rests_on=told), tmp_path)
    assert read_result(path).rests_on == told
    assert not list(jsonschema.Draft202012Validator(schema()).iter_errors(json.loads(path.read_text())))


def test_equal_results_give_equal_bytes(result, put_result, tmp_path):
    one, two = (put_result(result("ease"), tmp_path / name) for name in "ab")
    assert one.read_bytes() == two.read_bytes()
    assert ranks_path(one).read_bytes() == ranks_path(two).read_bytes()


def test_every_change_of_a_value_is_noticed(written):
    path, record = written
    places = list(leaves(record))
    assert len(places) > 40
    for place in places:
        tree = copy.deepcopy(record)
        parent = tree
        for key in place[:-1]:
            parent = parent[key]
        parent[place[-1]] = changed(parent[place[-1]])
        path.write_text(json.dumps(tree))
        with pytest.raises(IntegrityError, match=r"seed2\.json"):
            read_result(path)


@pytest.mark.parametrize("key", ["dataset_sha256", "selection", "metrics", "threads"])
def test_a_missing_or_misspelt_field_is_named(written, key):
    path, record = written
    path.write_text(json.dumps(seal({k: v for k, v in record.items() if k != key})))
    with pytest.raises(IntegrityError, match=f"lacks {key}"):
        read_result(path)
    path.write_text(json.dumps(seal({k + "x" if k == key else k: v for k, v in record.items()})))
    with pytest.raises(IntegrityError, match=rf"no key '{key}x'; did you mean '{key}'\?"):
        read_result(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "2"}, r'seed must be a whole number, got "2"'),
        ({"seed": True}, "seed must be a whole number, got true"),
        ({"parameters": 1.5}, r"parameters must be a whole number, got 1.5"),
        ({"train_seconds": 1}, "train_seconds must be a finite number, got 1"),
        ({"train_seconds": None}, "train_seconds must be a finite number, got null"),
        ({"role": "winner"}, "role must be one of 'model', 'control', 'training-free'"),
        ({"control_of": 3}, "control_of must be text or nothing, got 3"),
        ({"control_of": "x"}, "does not go with control_of 'x'"),
        ({"metrics": {"ndcg@10": "high"}}, r"metrics.ndcg@10 must be a finite number"),
        ({"metrics": {"ndcg@10": 0.5, "recall@10": 1.5, "mrr": -0.1}}, r"may be larger\), but not recall@10, mrr"),
        ({"validation": {"ndcg@10": -0.5}}, r"metrics lie in 0..1 .*, but not ndcg@10"),
        ({"metrics": {"recall@10": 0.5}}, r"no value for its headline metric ndcg@10"),
        ({"bounds": {"optimistic": 0.04, "pessimistic": 0.03}}, r"ndcg@10 lies outside its own bounds"),
        (
            {"selection": [1]},
            r"selection must be a mapping with the keys metric, value, epoch, num_inference_steps, gui",
        ),
        ({"model": "../../etc"}, r"the name '../../etc' must be made of"),
        ({"model": "<script>"}, r"the name '<script>' must be made of"),
        ({"schema_version": 3}, r"schema_version 3; this diffrec reads 1 to 2"),
        ({"schema_version": True}, "schema_version True; this"),
        ({"draw_metrics": []}, "draw_metrics must hold the metrics of one draw"),
        ({"draw_metrics": [{"ndcg@10": 0.05}]}, "draw_metrics must hold the metrics"),
        ({"draw_metrics": [{"ndcg@10": 0.05, "recall@10": 0.1, "recall@20": 0.3}]}, "recall@20 is not the mean of its"),
        ({"reported": [{"metric": "x", "value": 0.1, "status": "unverified", "source": "y"}]}, "status must be one of"),
    ],
)
def test_a_sealed_record_with_a_wrong_field_is_refused(written, change, message):
    path, record = written
    path.write_text(json.dumps(seal({**record, **change})))
    with pytest.raises(IntegrityError, match=message):
        read_result(path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"schema_version": NaN}', "\ud800".encode("utf-8", "surrogatepass")]
)
def test_what_is_no_record_is_refused(tmp_path, text):
    path = tmp_path / "seed0.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(IntegrityError, match=r"seed0\.json is not (valid JSON|a result record)"):
        read_result(path)


@pytest.mark.parametrize("depth", [*range(300, 1100, 50), 5000, 100_000])
def test_a_deep_record_is_refused_and_not_a_crash(written, depth):
    path, record = written
    config = json.dumps(record["config"])
    path.write_text(
        path.read_text().replace('"config": {', '"config": {"deep": ' + "[" * depth + "]" * depth + ", ", 1)
    )
    assert config != "{}"
    with pytest.raises(IntegrityError, match=r"seed2\.json"):
        read_result(path)


def test_a_repeated_key_is_refused(written):
    path, _ = written
    path.write_text(path.read_text().replace('"suite": ', '"suite": "other", "suite": ', 1))
    with pytest.raises(IntegrityError, match="a key occurs twice"):
        read_result(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": {"ndcg@10": float("nan")}}, r"seed0\.json: metrics.ndcg@10 must be a finite number"),
        ({"metrics": {"ndcg@10": 0.05, "recall@10": 2.0}}, "but not recall@10"),
        ({"dataset": "../x"}, r"the name '\.\./x' must be made of"),
        ({"control_of": "x"}, "does not go with control_of 'x'"),
    ],
)
def test_what_could_not_be_read_is_not_written(result, put_result, change, message, tmp_path):
    with pytest.raises(IntegrityError, match=message):
        put_result(result("ease", **change), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_metrics_that_may_exceed_one_are_those_that_ties_lift(result, put_result, tmp_path):
    """Four true items that share the places 1 to 4, so that all have the mean rank 2.5, and lists of three."""
    values = {name: value.item() for name, value in metrics_from_ranks(torch.full((1, 4), 2.5), [3]).items()}
    assert {name.partition("@")[0] for name, value in values.items() if value > 1} == set(MAY_EXCEED_ONE)
    values["ndcg@10"] = 1.25
    original = result("ease", metrics=values, bounds=Bounds(1.5, 0.5))
    assert read_result(put_result(original, tmp_path)).metrics == values


def test_a_record_in_the_wrong_place_is_refused(result, put_result, tmp_path):
    path = put_result(result("ease"), tmp_path)
    path.rename(path.with_name("seed1.json"))
    with pytest.raises(
        IntegrityError, match=r"seed1.json holds the result that belongs at quick/ml-100k/ease/seed0.json"
    ):
        read_results(tmp_path)


def test_a_hash_does_not_depend_on_the_order_of_keys():
    assert sha256_of({"a": 1, "b": {"c": 2, "d": 3}}) == sha256_of({"b": {"d": 3, "c": 2}, "a": 1})
    assert sha256_of({"a": 1}) != sha256_of({"a": 1.5})


FIXTURES = Path(__file__).parent / "records"


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_a_record_of_every_version_is_read(version):
    result = read_result(FIXTURES / f"version{version}.json")
    assert (result.model, result.protocol) == ("diffrec", "loo-full-masked@1")
    assert result.draw_metrics[0].keys() == result.metrics.keys()
    assert (result.weights_sha256 is None) == (version == 1)


def test_ranks_lie_beside_the_record_and_are_checked(result, put_result, ranks, tmp_path):
    path = put_result(result("ease"), tmp_path)
    stored = read_result(path)
    assert [*ranks_of(stored, tmp_path).draws[0].values] == [*ranks().draws[0].values]
    ranks_path(path).write_bytes(ranks_path(path).read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match=r"seed0\.ranks\.parquet was changed"):
        ranks_of(stored, tmp_path)
    ranks_path(path).unlink()
    with pytest.raises(IntegrityError, match=r"there is no .*seed0\.ranks\.parquet"):
        ranks_of(stored, tmp_path)
    assert ranks_of(replace(stored, ranks_sha256=None), tmp_path) is None


def test_the_schema_that_ships_is_that_of_the_record():
    shipped = resource_dir("benchmarks") / "result.schema.json"
    assert json.loads(shipped.read_text()) == schema()
    jsonschema.Draft202012Validator.check_schema(schema())


def test_the_schema_takes_what_is_written_and_no_other_shape(written):
    _, record = written
    validator = jsonschema.Draft202012Validator(schema())
    assert not list(validator.iter_errors(record))
    for change in ({"seed": "2"}, {"role": "winner"}, {"draw_metrics": 3}, {"selection": {}}, {"more": 1}):
        assert list(validator.iter_errors({**record, **change})), change
    assert list(validator.iter_errors({key: value for key, value in record.items() if key != "metrics"}))


def test_results_that_ship_fit_the_schema():
    validator = jsonschema.Draft202012Validator(schema())
    for path in sorted((resource_dir("benchmarks") / "results").glob("*/*/*/seed*.json")):
        assert not list(validator.iter_errors(json.loads(path.read_text()))), path
