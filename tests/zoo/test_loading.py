"""Round trips of every model, titles, and the refusal of anything that is not as it was saved."""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

import diffrec
import diffrec.baselines
import diffrec.models
import diffrec.paths
import diffrec.zoo.titles
from diffrec.baselines import BASELINES, EASE, ItemKNN
from diffrec.data.protocol import PROTOCOLS
from diffrec.data.vocabulary import Vocabulary
from diffrec.diffusion.heat import HeatSteps
from diffrec.errors import IntegrityError, NetworkError, NotFoundError
from diffrec.models import MODELS
from diffrec.testing.fuzzing import HISTORIES, damage_is_noticed, seal, sealed_damage_is_refused_or_harmless
from diffrec.zoo import load, save
from diffrec.zoo.entry import CONFIG, FILES, MANIFEST, METRICS, VOCABULARY, WEIGHTS
from diffrec.zoo.finding import fetch_entry
from diffrec.zoo.index import rebuild_index


def lists(model):
    best = model.recommend(HISTORIES, k=10, seed=1)
    return best.items, best.scores


def same_lists(model, other):
    return all(torch.equal(mine, theirs) for mine, theirs in zip(lists(model), lists(other), strict=True))


# round trips


def test_a_torch_model_comes_back(tiny, entry):
    loaded = load(entry)
    assert type(loaded) is type(tiny)
    assert not loaded.training
    assert same_lists(loaded, tiny)
    assert loaded.init_args == tiny.init_args
    assert loaded.vocabulary.item_ids == tiny.vocabulary.item_ids


@pytest.mark.parametrize("name", [*MODELS, *BASELINES])
def test_every_model_and_baseline_comes_back(name, dataset, tmp_path):
    package, path = (diffrec.models, MODELS) if name in MODELS else (diffrec.baselines, BASELINES)
    small = {"embedding_size": 32} if name == "preferdiff" else {}  # its 3072 take half a minute
    model = getattr(package, path[name].split(":")[1])(dataset.num_items, **small)
    if name in BASELINES:
        model.prepare_on(PROTOCOLS["loo-full-masked@1"].apply(dataset))
    if "num_inference_steps" in model.init_args:
        model.num_inference_steps = 3
    loaded = load(save(model.eval(), tmp_path / "entry", dataset=dataset))
    assert type(loaded) is type(model)
    assert same_lists(loaded, model)


def test_arguments_other_than_the_defaults_come_back(tiny_class, tmp_path):
    model = tiny_class(7, width=2, widths=(5,), scale=2).eval()
    loaded = load(save(model, tmp_path / "entry"))
    assert dict(loaded.init_args) == {"num_items": 7, "width": 2, "widths": (5,), "scale": 2.0}
    assert loaded.vocabulary is None


def test_changed_sampler_settings_come_back(tmp_path):
    model = diffrec.models.DreamRec(20).eval()
    model.num_inference_steps, model.guidance_scale = 7, 1.5
    loaded = load(save(model, tmp_path / "entry"))
    assert (loaded.num_inference_steps, loaded.guidance_scale, loaded.denoiser_calls) == (7, 1.5, 14)


def test_loading_leaves_the_random_state_alone(entry):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load(entry)
    assert torch.equal(torch.rand(3), expected)


def test_ten_megabytes_load_within_a_second(tiny_class, tmp_path):
    folder = save(tiny_class(20_000, width=125), tmp_path / "entry")
    assert (folder / "model.safetensors").stat().st_size > 10_000_000
    start = time.process_time()
    load(folder)
    assert time.process_time() - start < 1


# names


def test_a_name_is_found_in_the_zoo(entry, tiny, monkeypatch):
    monkeypatch.setattr("diffrec.zoo.index.resource_dir", lambda name: entry.parent)
    rebuild_index()
    assert same_lists(diffrec.load("tiny.synthetic"), tiny)
    with pytest.raises(NotFoundError, match=r"no zoo entry 'tiny.sinthetic'.*did you mean 'tiny.synthetic'\?"):
        load("tiny.sinthetic")


def test_a_consistent_entry_that_the_zoo_does_not_list_is_refused(entry, monkeypatch):
    monkeypatch.setattr("diffrec.zoo.index.resource_dir", lambda name: entry.parent)
    rebuild_index()
    rewrite(entry, "metrics.json", lambda value: value["metrics"].update({"ndcg@10": 0.9}))
    load(entry)
    with pytest.raises(IntegrityError, match="not the entry that the zoo lists"):
        load("tiny.synthetic")


def test_a_listed_entry_without_folder_is_not_found(entry, monkeypatch):
    monkeypatch.setattr("diffrec.zoo.index.resource_dir", lambda name: entry.parent)
    rebuild_index()
    with pytest.raises(NotFoundError, match="is in the zoo folder, and nobody else is set; DIFFREC_ZOO_MIRRORS"):
        fetch_entry("tiny.synthetic")
    shutil.rmtree(entry)
    with pytest.raises(NotFoundError, match=r"is not on this machine; DIFFREC_ZOO_MIRRORS .*say where to get it"):
        load("tiny.synthetic")


def test_a_folder_without_slash_is_asked_for(entry, monkeypatch):
    monkeypatch.chdir(entry.parent)
    with pytest.raises(NotFoundError, match=r"write './tiny.synthetic'"):
        load("tiny.synthetic")
    load("./tiny.synthetic")


@pytest.mark.parametrize(
    "name", ["", "..", "../zoo", "/etc", "~", "a\0b", "a\\b", "Tiny.synthetic", "x" * 300, "x" * 300 + "/", "a\0/b"]
)
def test_names_that_are_none(name, entry, monkeypatch):
    monkeypatch.setattr("diffrec.zoo.index.resource_dir", lambda name: entry.parent)
    rebuild_index()
    with pytest.raises((NotFoundError, IntegrityError)):
        load(name)


# titles


def test_titles_are_not_stored_but_borrowed_from_the_dataset(entry, dataset):
    for name in (*FILES, MANIFEST):
        data = (entry / name).read_bytes()
        assert not any(title.encode() in data for title in dataset.vocabulary.titles)
    loaded = load(entry, offline=True)
    assert loaded.vocabulary.titles == dataset.vocabulary.titles
    first, second = dataset.vocabulary.titles[4:6]
    by_title = loaded.recommend([first, second])
    assert torch.equal(by_title.items, loaded.recommend(torch.tensor([[5, 6]])).items)


def test_titles_are_stored_where_the_saver_says_so(tiny, dataset, tmp_path, monkeypatch):
    folder = save(tiny, tmp_path / "entry", dataset=dataset, include_titles=True)
    monkeypatch.setattr("diffrec.zoo.titles.load_dataset", lambda name: pytest.fail("the dataset is not needed"))
    assert load(folder).vocabulary == dataset.vocabulary


def test_titles_of_another_catalogue_are_not_taken(entry, dataset, monkeypatch):
    other = Vocabulary(dataset.vocabulary.item_ids[::-1], dataset.vocabulary.titles)
    monkeypatch.setattr("diffrec.zoo.titles.load_dataset", lambda name: type("D", (), {"vocabulary": other}))
    assert load(entry).vocabulary.titles is None


@pytest.mark.parametrize("failure", [NetworkError("no network"), NotFoundError("no dataset"), IntegrityError("bad")])
def test_without_the_dataset_ids_work_and_the_error_says_how_to_get_titles(entry, dataset, monkeypatch, failure):
    asked = []

    def fail(name):
        asked.append(name)
        raise failure

    monkeypatch.setattr("diffrec.zoo.titles.load_dataset", fail)
    loaded = load(entry)
    assert asked == []  # nothing is fetched before a title is needed
    ids = dataset.vocabulary.item_ids
    assert loaded.vocabulary.parse_history(f"{ids[2]},{ids[0]}") == [3, 1]
    assert loaded.vocabulary.label(3) == ids[2]
    with pytest.raises(NotFoundError, match="titles come with the dataset: run 'diffrec data fetch synthetic'"):
        loaded.vocabulary.number("Item 4 (group 1)")
    assert asked == ["synthetic"]


@pytest.fixture
def of_a_dataset_to_fetch(entry, monkeypatch, tmp_path):
    """An entry trained on a registered dataset that is not on this machine; asking anybody for it fails the test."""
    rewrite(entry, "config.json", lambda value: value["dataset"].update({"name": "ml-100k"}))
    monkeypatch.setenv("DIFFREC_CACHE", str(tmp_path / "empty"))
    monkeypatch.delenv("DIFFREC_DATA", raising=False)
    for place in ("diffrec.zoo.titles.load_dataset", "diffrec.data.sources.fetch", "urllib.request.urlopen"):
        monkeypatch.setattr(place, lambda *args, **kwargs: pytest.fail("would be fetched"))
    return entry


@pytest.mark.parametrize("offline", [False, True])
def test_titles_never_fetch_a_dataset_and_the_error_names_the_command(of_a_dataset_to_fetch, offline):
    vocabulary = load(of_a_dataset_to_fetch, offline=offline).vocabulary
    assert vocabulary.titles is None
    assert vocabulary.label(3) == "3"
    with pytest.raises(NotFoundError, match=r"no item id 'Alien'.*; titles come.* run 'diffrec data fetch ml-100k'$"):
        vocabulary.parse_history("Alien")


def test_vocabularies_are_compared_without_their_dataset(of_a_dataset_to_fetch, monkeypatch):
    monkeypatch.setattr("diffrec.zoo.titles.find", lambda name: pytest.fail("the dataset is not needed"))
    one, same = (load(of_a_dataset_to_fetch).vocabulary for _ in range(2))
    assert one == same
    assert hash(one) == hash(same)
    assert one != Vocabulary(one.item_ids)
    assert copy.copy(one) == pickle.loads(pickle.dumps(one)) == one  # noqa: S301


# damage: bytes that changed by accident


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_damage_of_any_file_is_noticed(name, entry):
    rng = random.Random(name)
    for _ in range(150):
        damage_is_noticed(entry, name, rng)
    load(entry)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, VOCABULARY, METRICS])
def test_damage_is_refused_or_harmless_even_if_the_manifest_is_made_to_fit(name, entry, tiny):
    """Without the checksum: files that cannot be read are refused, other bytes that say the same are the same model."""
    rng, lists = random.Random(name), tiny.recommend(HISTORIES, k=10, seed=1)
    assert "refused" in {sealed_damage_is_refused_or_harmless(entry, name, rng, lists) for _ in range(50)}
    load(entry)


def test_the_folder_of_a_run_is_told_as_one(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(IntegrityError, match=r"is no zoo entry, for it holds no manifest\.json$"):
        load(tmp_path)
    (tmp_path / "checkpoints" / "best.ckpt").touch()
    with pytest.raises(IntegrityError, match=r"it is a run, of which 'diffrec zoo save .*' makes an entry"):
        load(tmp_path)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
@pytest.mark.parametrize("replacement", ["missing", "empty", "folder", "link", "pipe"])
def test_a_file_that_is_no_file_is_refused(name, replacement, entry, tmp_path):
    path = entry / name
    real = path.rename(tmp_path / "elsewhere")
    if replacement == "empty":
        path.touch()
    elif replacement == "folder":
        path.mkdir()
    elif replacement == "link":
        path.symlink_to(real)
    elif replacement == "pipe":
        os.mkfifo(path)
    with pytest.raises(IntegrityError, match=name):
        load(entry)


# malice: entries whose checksums fit


def write(path, value):
    path.write_text(json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n")


def rewrite(folder, name, change):
    """Change the JSON value of a file in place, or replace it by what `change` returns."""
    value = json.loads((folder / name).read_text())
    write(folder / name, change(value) or value)
    if name != MANIFEST:
        seal(folder)


HOSTILE_CONFIGS = {
    "a function of os": lambda c: c.update({"class": "os.system"}),
    "a builtin": lambda c: c.update({"class": "builtins.eval"}),
    "a class of torch": lambda c: c.update({"class": "torch.nn.Linear"}),
    "a prefix that only looks right": lambda c: c.update({"class": "diffrec.modelsx.Tiny"}),
    "a module below": lambda c: c.update({"class": "diffrec.models.tiny.Tiny"}),
    "a class of elsewhere in diffrec": lambda c: c.update({"class": "diffrec.data.Dataset"}),
    "a dunder": lambda c: c.update({"class": "diffrec.models.__loader__"}),
    "a dictionary of the module": lambda c: c.update({"class": "diffrec.models.MODELS"}),
    "an unknown class": lambda c: c.update({"class": "diffrec.models.Nothing"}),
    "a path in the class": lambda c: c.update({"class": "diffrec.models.../../Tiny"}),
    "a newline after the class": lambda c: c.update({"class": "diffrec.models.Tiny\n"}),
    "no class": lambda c: c.pop("class") and None,
    "a class that is no text": lambda c: c.update({"class": ["diffrec.models.Tiny"]}),
    "another model": lambda c: c.update({"class": "diffrec.baselines.Popularity", "init": {"num_items": 100}}),
    "another schema": lambda c: c.update(schema_version=2),
    "schema True": lambda c: c.update(schema_version=True),
    "an extra key": lambda c: c.update(callback="os.system('touch MARKER')"),
    "a missing key": lambda c: c.pop("protocol") and None,
    "init a list": lambda c: c.update(init=[100]),
    "an unknown argument": lambda c: c["init"].update(widht=4),
    "self as an argument": lambda c: c["init"].update(self=1),
    "a missing argument": lambda c: c["init"].pop("num_items") and None,
    "text for a number": lambda c: c["init"].update(width="4"),
    "a bool for a number": lambda c: c["init"].update(width=True),
    "a float for an int": lambda c: c["init"].update(width=4.0),
    "an object for a number": lambda c: c["init"].update(width={"class_path": "os.system", "init_args": ["id"]}),
    "a number for a sequence": lambda c: c["init"].update(widths=3),
    "text in a sequence": lambda c: c["init"].update(widths=["2", "3"]),
    "another width": lambda c: c["init"].update(width=5),
    "a negative width": lambda c: c["init"].update(width=-4),
    "zero items": lambda c: c["init"].update(num_items=0),
    "a huge int": lambda c: c["init"].update(width=10**30),
    "an int that allocates 4 TB": lambda c: c["init"].update(width=10**7),
    "items that allocate": lambda c: c["init"].update(num_items=10**7),
    "thousands of layers": lambda c: c["init"].update(widths=[1] * 9_000),
    "a huge float": lambda c: c["init"].update(scale=1e308),
    "a parameter count that lies": lambda c: c.update(parameters=c["parameters"] + 1),
    "denoiser calls that lie": lambda c: c.update(denoiser_calls=2),
    "dataset text": lambda c: c.update(dataset="synthetic"),
    "dataset with a path": lambda c: c["dataset"].update(path="/etc/passwd"),
}


@pytest.mark.parametrize("case", HOSTILE_CONFIGS)
def test_a_hostile_configuration_is_refused(case, entry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rewrite(entry, "config.json", HOSTILE_CONFIGS[case])
    with pytest.raises(IntegrityError):
        load(entry)
    assert not list(tmp_path.rglob("MARKER"))


@pytest.mark.parametrize("case", ["an int that allocates 4 TB", "items that allocate", "thousands of layers"])
def test_a_model_far_larger_than_its_file_is_stopped_while_it_is_built(case, entry):
    """Built, it would be refused as well, for the shapes of its tensors."""
    rewrite(entry, "config.json", HOSTILE_CONFIGS[case])
    with pytest.raises(IntegrityError, match="ask for a far larger model than the file holds"):
        load(entry)


@pytest.mark.parametrize(
    ("name", "argument"), [("LightGCN", "num_layers"), ("GiffCF", "num_train_timesteps"), ("DreamRec", "num_samples")]
)
def test_what_keeps_a_machine_busy_without_end_is_refused_before_the_model_is_built(name, argument, tmp_path):
    """Nothing in the file is larger for it."""
    entry = save(getattr(diffrec.models, name)(20, embedding_size=4).eval(), tmp_path / "entry")
    rewrite(entry, "config.json", lambda c: c["init"].update({argument: 10**7}))
    with pytest.raises(IntegrityError, match=rf"config\.json: {argument} cannot be 10000000, at most"):
        load(entry)


def test_sampling_that_does_not_end_is_refused(tmp_path):
    entry = save(diffrec.models.RuleBridge(20, embedding_size=4).eval(), tmp_path / "entry")
    rewrite(entry, "config.json", lambda c: c["sampling"].update(num_draws=10**9))
    with pytest.raises(IntegrityError, match=r"sampling: num_draws cannot be 1000000000, at most 1,000"):
        load(entry)


def test_shapes_are_tried_in_one_step(tmp_path, monkeypatch):
    model = diffrec.models.GiffCF(20, embedding_size=4, num_train_timesteps=7).eval()
    entry, taken = save(model, tmp_path / "entry"), []
    step = HeatSteps.step
    monkeypatch.setattr(HeatSteps, "step", lambda *given: taken.append(given) or step(*given))
    loaded = load(entry)
    assert (len(taken), loaded.num_inference_steps, loaded.denoiser_calls) == (1, None, 7)


def test_no_module_is_imported_for_a_class_of_elsewhere(entry, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'MARKER')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    rewrite(entry, "config.json", lambda c: c.update({"class": "evil.Tiny"}))
    with pytest.raises(IntegrityError, match="only those of diffrec and of installed plug-ins may be loaded"):
        load(entry)
    assert not (tmp_path / "MARKER").exists()


HOSTILE_JSON = {
    "nested lists": b"[" * 30_000 + b"]" * 30_000,
    "nested objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "NaN": b'{"schema_version": NaN}',
    "infinity": b'{"schema_version": Infinity}',
    "a number beyond floats": b'{"schema_version": 1e999}',
    "ten thousand digits": b'{"schema_version": ' + b"9" * 10_000 + b"}",
    "a key twice": b'{"schema_version": 1, "schema_version": 1}',
    "no object": b"17",
    "not text": b"\xff\xfe\x00",
    "a byte order mark": b'\xef\xbb\xbf{"schema_version": 1}',
    "YAML": b"schema_version: !!python/object/apply:os.system ['touch MARKER']",
}


@pytest.mark.parametrize("name", ["config.json", "vocabulary.json", "metrics.json", MANIFEST])
@pytest.mark.parametrize("case", HOSTILE_JSON)
def test_hostile_json_is_refused(name, case, entry):
    (entry / name).write_bytes(HOSTILE_JSON[case])
    if name != MANIFEST:
        seal(entry)
    with pytest.raises(IntegrityError, match=name):
        load(entry)


@pytest.mark.parametrize("name", ["config.json", "metrics.json", "card.md", MANIFEST])
def test_files_that_are_small_by_nature_may_not_be_large(name, entry):
    with (entry / name).open("ab") as file:
        file.write(b" " * (1 << 19))
    if name != MANIFEST:
        seal(entry)
    with pytest.raises(IntegrityError, match="bytes"):
        load(entry)


FILE_NAMES = [
    "../x",
    "/etc/passwd",
    "a\\b",
    "~/x",
    "a\0b",
    "sub/config.json",
    "..",
    "",
    "extra.py",
    "MODEL.SAFETENSORS",
]


@pytest.mark.parametrize("file_name", FILE_NAMES)
def test_a_manifest_names_the_files_of_an_entry_and_no_path(file_name, entry):
    rewrite(entry, MANIFEST, lambda m: m["files"].update({file_name: m["files"]["card.md"]}))
    with pytest.raises(IntegrityError, match=r"must list model\.safetensors"):
        load(entry)
    rewrite(entry, MANIFEST, lambda m: m["files"].pop("card.md") and None)
    with pytest.raises(IntegrityError, match=r"must list model\.safetensors"):
        load(entry)


@pytest.mark.parametrize("change", [{"size": -1}, {"size": 10**18}, {"size": "7"}, {"sha256": "0" * 63}, {"sha256": 7}])
def test_impossible_sizes_and_checksums(change, entry):
    rewrite(entry, MANIFEST, lambda m: m["files"]["model.safetensors"].update(change))
    with pytest.raises(IntegrityError):
        load(entry)


HOSTILE_TENSORS = {
    "an extra tensor": lambda t: t.update(extra=torch.zeros(1)),
    "a missing tensor": lambda t: t.pop("steps"),
    "a renamed tensor": lambda t: t.update(stepz=t.pop("steps")),
    "half precision": lambda t: t.update({"items.weight": t["items.weight"].half()}),
    "an int for a float": lambda t: t.update({"items.weight": t["items.weight"].to(torch.int32)}),
    "a float for an int": lambda t: t.update(steps=t["steps"].float()),
    "one row less": lambda t: t.update({"items.weight": t["items.weight"][:-1].clone()}),
    "transposed": lambda t: t.update({"items.weight": t["items.weight"].T.contiguous()}),
    "flattened": lambda t: t.update({"items.weight": t["items.weight"].flatten()}),
    "empty": lambda t: t.update(steps=torch.empty(0, dtype=torch.int64)),
    "NaN": lambda t: t["items.weight"][3].fill_(torch.nan),
    "infinity": lambda t: t["items.weight"][3, :1].fill_(-torch.inf),
}


@pytest.mark.parametrize("case", HOSTILE_TENSORS)
def test_weights_that_do_not_fit_are_refused(case, entry):
    tensors = load_file(entry / "model.safetensors")
    HOSTILE_TENSORS[case](tensors)
    save_file(tensors, entry / "model.safetensors")
    seal(entry)
    with pytest.raises(IntegrityError):
        load(entry)


class Marker:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_is_never_run(entry, tmp_path):
    marker = str(tmp_path / "MARKER")
    torch.save(Marker(marker), tmp_path / "zipped.pt")
    pickles = [pickle.dumps(Marker(marker)), (tmp_path / "zipped.pt").read_bytes()]
    for data in [*pickles, b"", b"\0" * 8, b"\xff" * 64, (1 << 62).to_bytes(8, "little") + b"{}"]:
        (entry / "model.safetensors").write_bytes(data)
        seal(entry)
        with pytest.raises(IntegrityError, match="safetensors"):
            load(entry)
    assert not os.path.exists(marker)
    pickle.loads(pickles[0])  # noqa: S301
    assert os.path.exists(marker)  # the payload would have worked


HOSTILE_VOCABULARIES = {
    "one id less": lambda v: v["item_ids"].pop() and None,
    "an id twice": lambda v: v["item_ids"].__setitem__(0, v["item_ids"][1]),
    "a number as id": lambda v: v["item_ids"].__setitem__(0, 7),
    "ids as text": lambda v: v.update(item_ids="a" * 100),
    "one title": lambda v: v.update(titles=["a"]),
    "a list as title": lambda v: v.update(titles=[["a"]] * 100),
    "titles without ids": lambda v: v.update(titles=["a"] * 100, item_ids=None),
    "an extra key": lambda v: v.update(path="/etc/passwd"),
}


@pytest.mark.parametrize("case", HOSTILE_VOCABULARIES)
def test_a_hostile_vocabulary_is_refused(case, entry):
    rewrite(entry, "vocabulary.json", HOSTILE_VOCABULARIES[case])
    with pytest.raises(IntegrityError):
        load(entry)


# closed forms, whose shapes come from the file


CLOSED_FORMS = {
    "too few items": (EASE, lambda t: t.update(table=t["table"][:, :50].contiguous())),
    "too few rows": (EASE, lambda t: t.update(table=t["table"][:50].contiguous())),
    "a vector": (EASE, lambda t: t.update(table=t["table"].flatten())),
    "doubles": (EASE, lambda t: t.update(table=t["table"].double())),
    "a column that is not there": (ItemKNN, lambda t: t["indices"][:1].fill_(1_000_000)),
    "a negative column": (ItemKNN, lambda t: t["indices"][-1:].fill_(-5)),
    "rows that end before they begin": (ItemKNN, lambda t: t["indptr"][50:51].fill_(10_000)),
    "rows that begin before the first": (ItemKNN, lambda t: t["indptr"][:1].fill_(-7)),
    "too many columns": (ItemKNN, lambda t: t.update(indices=t["indices"].repeat(2))),
}


@pytest.mark.parametrize("case", CLOSED_FORMS)
def test_a_closed_form_that_does_not_fit_is_refused(case, dataset, tmp_path):
    kind, change = CLOSED_FORMS[case]
    model = kind(dataset.num_items) if kind is EASE else kind(dataset.num_items, neighbours=5)
    model.solve(dataset.parts["all"].items)
    folder = save(model, tmp_path / "entry")
    tensors = load_file(folder / "model.safetensors")
    assert tensors["table" if kind is EASE else "indices"].numel()
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    seal(folder)
    with pytest.raises(IntegrityError):
        load(folder)


def test_a_closed_form_of_fewer_items_is_refused_though_its_count_of_parameters_fits(dataset, tmp_path):
    model = EASE(dataset.num_items)
    model.solve(dataset.parts["all"].items)
    folder = save(model, tmp_path / "entry")
    tensors = load_file(folder / "model.safetensors")
    tensors["table"] = tensors["table"][:, :50].contiguous()
    save_file(tensors, folder / "model.safetensors")
    rewrite(folder, "config.json", lambda c: c.update(parameters=sum(t.numel() for t in tensors.values())))
    with pytest.raises(IntegrityError, match="scores 50 items instead of 100"):
        load(folder)
