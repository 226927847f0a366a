"""Lists that come with an entry: written with it, compared at `verify`, and as little trusted as its other files."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffrec.baselines import EASE
from diffrec.errors import IntegrityError
from diffrec.models import DreamRec, RuleBridge
from diffrec.zoo import load, save
from diffrec.zoo.entry import FILES, GOLDEN, MANIFEST, REQUIRED, WEIGHTS, Entry, manifest_bytes
from diffrec.zoo.golden import LENGTHS, Golden, K, fixed_histories
from diffrec.zoo.index import Listing
from diffrec.zoo.saving import narrowed, refresh
from diffrec.zoo.verifying import verify


def seal(folder, names=FILES):
    """Make the manifest fit the files."""
    (folder / MANIFEST).write_bytes(manifest_bytes({name: (folder / name).read_bytes() for name in names}))


def rewrite(folder, change):
    """Change golden.json in place, or replace it by what `change` returns."""
    value = told(folder)
    value = change(value) or value
    (folder / GOLDEN).write_text(json.dumps(value))
    seal(folder)


def told(folder):
    return json.loads((folder / GOLDEN).read_text())


def test_the_lists_are_those_that_the_loaded_entry_gives(entry):
    model, golden = load(entry), told(entry)
    assert verify(Entry.open(entry)).lists == len(LENGTHS) == len(golden["histories"])
    for ids, items, scores in zip(golden["histories"], golden["items"], golden["scores"], strict=True):
        best = model.recommend([f"id:{text}" for text in ids], K, seed=golden["seed"])
        assert best.items[0].tolist() == items
        assert best.scores[0].tolist() == pytest.approx(scores, rel=1e-6)


@pytest.mark.parametrize("num_items", [1, 2, 3, 40, 500])
def test_histories_are_fixed_and_hold_no_item_twice(num_items):
    histories = fixed_histories(num_items)
    assert histories == fixed_histories(num_items)
    assert [len(history) for history in histories] == [min(n, max(1, num_items // 2)) for n in LENGTHS]
    for history in histories:
        assert len(set(history)) == len(history)
        assert set(history) <= set(range(1, num_items + 1))
    if num_items > 100:
        assert len({number for history in histories for number in history}) > num_items / 3


def test_a_sampler_with_noise_and_a_catalogue_smaller_than_a_list(tmp_path):
    model = DreamRec(8, embedding_size=8, num_inference_steps=3).eval()
    folder = save(model, tmp_path / "entry")
    golden = told(folder)
    assert golden["sampling"]["num_inference_steps"] == 3
    assert all(type(number) is int for history in golden["histories"] for number in history)
    assert {len(h) + len(items) for h, items in zip(golden["histories"], golden["items"], strict=True)} == {8}
    assert verify(Entry.open(folder)).lists == len(LENGTHS)


def test_other_weights_are_noticed_though_every_checksum_fits(entry):
    tensors = load_file(entry / WEIGHTS)
    tensors["items.weight"][7] *= 1.01
    save_file(tensors, entry / WEIGHTS)
    seal(entry)
    load(entry)
    with pytest.raises(
        IntegrityError, match=r"is not what it says: list \d+ has item \d+ with .* at place 1, the model"
    ):
        verify(Entry.open(entry))


def test_rounding_is_not_a_difference(entry):
    rewrite(entry, lambda golden: golden.update(scores=[[s * (1 + 4e-5) for s in r] for r in golden["scores"]]))
    verify(Entry.open(entry))
    rewrite(entry, lambda golden: golden.update(scores=[[s * (1 + 4e-4) for s in r] for r in golden["scores"]]))
    with pytest.raises(IntegrityError, match="list 0 has item"):
        verify(Entry.open(entry))


def test_items_as_good_may_change_places_and_others_may_not(dataset, tmp_path):
    """EASE of an untouched item scores most items 0: any of them may stand where another does."""
    model = EASE(dataset.num_items)
    model.solve(dataset.parts["all"].items)
    model.table[:, 10:] = 0.0
    golden = Golden.of(model.eval())
    number = next(n for n, scores in enumerate(golden.scores) if scores.count(0.0) > 2)
    first = golden.scores[number].index(0.0)
    items = [list(row) for row in golden.items]
    unlisted = set(range(11, 100)) - {*items[number], *golden.histories[number]}

    def with_last(item):
        return Golden(golden.histories, 0, None, [*items[:number], [*items[number][:-1], item], *items[number + 1 :]],
                      golden.scores)  # fmt: skip

    assert golden.differences(model) == []
    assert with_last(min(unlisted)).differences(model) == []
    assert f"list {number} holds" in with_last(items[number][first]).differences(model)[0]
    assert f"list {number} has item" in with_last(golden.histories[number][0]).differences(model)[0]


HOSTILE = {
    "no object": lambda g: [1],
    "an extra key": lambda g: g.update(callback="os.system"),
    "another schema": lambda g: g.update(schema_version=2),
    "no lists": lambda g: g.update(histories=[], items=[], scores=[]),
    "one list less": lambda g: g["items"].pop() and None,
    "one score less": lambda g: g["scores"][0].pop() and None,
    "lists that are short": lambda g: g["items"][0].pop() and g["scores"][0].pop() and None,
    "an item twice": lambda g: g["items"][0].__setitem__(1, g["items"][0][0]),
    "an item that is none": lambda g: g["items"][0].__setitem__(0, 101),
    "a negative item": lambda g: g["items"][0].__setitem__(0, -1),
    "a huge item": lambda g: g["items"][0].__setitem__(0, 10**30),
    "text for an item": lambda g: g["items"][0].__setitem__(0, "1"),
    "True for an item": lambda g: g["items"][0].__setitem__(0, True),
    "text for a score": lambda g: g["scores"][0].__setitem__(0, "1"),
    "a huge score": lambda g: g["scores"][0].__setitem__(0, 1e300),
    "a row that is text": lambda g: g["items"].__setitem__(0, "1"),
    "an unknown id": lambda g: g["histories"][0].__setitem__(0, "nothing"),
    "an object for an id": lambda g: g["histories"][0].__setitem__(0, {}),
    "another sampler": lambda g: g.update(sampling={"num_inference_steps": 1}),
    "a seed that is none": lambda g: g.update(seed=1 << 70),
    "a seed in words": lambda g: g.update(seed="0"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_list_is_refused(case, entry):
    rewrite(entry, HOSTILE[case])
    with pytest.raises(IntegrityError):
        verify(Entry.open(entry))


def test_a_card_without_its_headings_is_noticed(entry):
    text = (entry / "card.md").read_text()
    (entry / "card.md").write_text(text.replace("## Limits", "## Borders"))
    seal(entry)
    with pytest.raises(IntegrityError, match="the card has nothing below 'Limits'"):
        verify(Entry.open(entry))


def test_an_entry_from_before_there_were_lists_loads_and_is_refreshed(entry):
    contents = {path.name: path.read_bytes() for path in entry.iterdir()}
    (entry / GOLDEN).unlink()
    seal(entry, REQUIRED)
    load(entry)
    assert verify(Entry.open(entry)).lists == 0
    assert GOLDEN not in Listing.of(Entry.open(entry)).files
    assert refresh(Entry.open(entry))
    assert {path.name: path.read_bytes() for path in entry.iterdir()} == contents
    assert not refresh(Entry.open(entry))


def test_tables_of_numbers_are_kept_in_16_bits_and_read_in_64(tmp_path):
    model = RuleBridge(40, embedding_size=8).eval()
    folder = save(model, tmp_path / "entry")
    tensors = load_file(folder / WEIGHTS)
    assert tensors["rules.items"].dtype == torch.uint16
    assert load(folder).rules.items.dtype == torch.int64
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    tensors["rules.items"] = tensors["rules.items"].long()  # as it was kept before
    save_file(tensors, folder / WEIGHTS)
    seal(folder)
    assert verify(Entry.open(folder)).lists == len(LENGTHS)
    assert refresh(Entry.open(folder))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == contents


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_numbers_are_kept_in_the_fewest_bits_that_hold_them(dtype):
    table = torch.arange(2000, dtype=dtype)
    for tensor in (table, table + 63_536):
        assert narrowed(tensor).dtype == torch.uint16
    for tensor in (table + 63_537, table - 1, -table):
        assert narrowed(tensor).dtype == torch.int32
    for tensor in (table, table + 63_536, table + 63_537, table - 1, -table):
        assert torch.equal(narrowed(tensor).to(dtype), tensor)


def test_numbers_that_need_64_bits_keep_them():
    large, small = torch.arange(2000) * 2_000_000, torch.arange(3)
    for tensor in (large, -large, small, torch.zeros(2000)):
        assert narrowed(tensor).dtype == tensor.dtype
        assert torch.equal(narrowed(tensor), tensor)
