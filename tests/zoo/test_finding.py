"""Entries from the cache, the project, mirrors and a hub: the right bytes, or a clear error and an empty place."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from diffrec import load
from diffrec.errors import DiffrecError, IntegrityError, NetworkError, NotFoundError, UsageError
from diffrec.zoo.cache import ZooCache, damage
from diffrec.zoo.entry import FILES, MANIFEST, manifest_bytes, sha256
from diffrec.zoo.finding import fetch_entry, find_entry
from diffrec.zoo.index import read_index
from diffrec.zoo.mirrors import sources

NAME = "tiny.synthetic"
HISTORIES = torch.tensor([[1, 2, 3], [50, 7, 100]])


def kept():
    return ZooCache.at(None).kept({name: row.revision for name, row in read_index().items()})


def assert_right(entry, there):
    assert {path.name for path in entry.folder.iterdir()} == {*FILES, MANIFEST}
    for name in (*FILES, MANIFEST):
        assert (entry.folder / name).read_bytes() == (there / NAME / name).read_bytes()
    assert [(k.name, k.whole, k.current, k.busy) for k in kept()] == [(NAME, True, True, False)]


def use(monkeypatch, *urls):
    monkeypatch.setenv("DIFFREC_ZOO_MIRRORS", " ".join(urls))


# the order


def test_a_model_comes_from_a_mirror_once_and_from_the_cache_ever_after(elsewhere, mirror, tiny, monkeypatch):
    server = mirror(elsewhere)
    use(monkeypatch, server.url)
    loaded = load(NAME)
    assert torch.equal(loaded.recommend(HISTORIES).items, tiny.recommend(HISTORIES).items)
    assert sorted(path for path, *_ in server.requests) == sorted(f"/{NAME}/{name}" for name in FILES)
    assert_right(find_entry(NAME, offline=True), elsewhere)
    shutil.rmtree(elsewhere)
    monkeypatch.delenv("DIFFREC_ZOO_MIRRORS")
    load(NAME, offline=True)
    assert len(server.requests) == len(FILES)


def test_the_cache_comes_before_the_project_and_the_project_before_a_mirror(elsewhere, mirror, tmp_path, monkeypatch):
    server = mirror(elsewhere)
    use(monkeypatch, server.url)
    here = tmp_path / "here" / NAME
    shutil.copytree(elsewhere / NAME, here)
    assert find_entry(NAME).folder == here
    assert server.requests == []
    fetched = fetch_entry(NAME)
    assert find_entry(NAME).folder == fetched.folder == tmp_path / "cache" / "zoo" / NAME / fetched.revision


def test_a_file_mirror_goes_the_same_way_and_works_offline(elsewhere, monkeypatch):
    use(monkeypatch, elsewhere.as_uri())
    monkeypatch.setenv("DIFFREC_OFFLINE", "1")
    load(NAME, offline=True)
    assert_right(find_entry(NAME), elsewhere)


def test_the_next_mirror_is_asked_where_one_fails(elsewhere, mirror, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    wrong = tmp_path / "wrong"
    shutil.copytree(elsewhere, wrong)
    weights = wrong / NAME / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    servers = [mirror(tmp_path / "empty"), mirror(wrong), mirror(elsewhere)]
    use(monkeypatch, "http://127.0.0.1:9", *(server.url for server in servers))
    assert_right(find_entry(NAME), elsewhere)
    assert len(servers[0].requests) == len(FILES)
    assert [path for path, *_ in servers[2].requests] == [f"/{NAME}/model.safetensors"]


def test_another_cache_folder(elsewhere, mirror, tmp_path, monkeypatch):
    server = mirror(elsewhere)
    use(monkeypatch, server.url)
    load(NAME, cache_dir=tmp_path / "other")
    assert not (tmp_path / "cache").exists()
    assert damage(ZooCache.at(tmp_path / "other").kept({})[0]) is None
    monkeypatch.delenv("DIFFREC_ZOO_MIRRORS")
    load(NAME, cache_dir=str(tmp_path / "other"))
    with pytest.raises(NotFoundError, match="is not on this machine"):
        load(NAME)


def test_offline_asks_nobody(elsewhere, mirror, monkeypatch):
    server = mirror(elsewhere)
    use(monkeypatch, server.url)
    with pytest.raises(NetworkError, match="not in the cache, and nothing may be downloaded while offline"):
        load(NAME, offline=True)
    monkeypatch.setenv("DIFFREC_OFFLINE", "1")
    with pytest.raises(NetworkError, match="while offline"):
        load(NAME)
    assert server.requests == []
    assert kept() == []


# revisions, and names that the project does not list


def newer(folder):
    """Another card, and with it another revision."""
    (folder / NAME / "card.md").write_text("A new card.")
    contents = {name: (folder / NAME / name).read_bytes() for name in FILES}
    (folder / NAME / MANIFEST).write_bytes(manifest_bytes(contents))
    return sha256(manifest_bytes(contents))


def test_a_name_means_the_revision_of_the_list(elsewhere, mirror, monkeypatch):
    use(monkeypatch, mirror(elsewhere).url)
    listed = read_index()[NAME].revision
    assert find_entry(NAME).revision == listed
    other = newer(elsewhere)
    assert find_entry(NAME).revision == fetch_entry(NAME).revision == listed
    assert find_entry(NAME, revision=other).revision == other
    assert load(NAME, revision=other, offline=True).vocabulary is not None
    assert [(k.revision, k.current) for k in kept()] == sorted([(listed, True), (other, False)])


def test_what_the_list_does_not_mean_is_not_taken(elsewhere, mirror, monkeypatch, caplog):
    use(monkeypatch, mirror(elsewhere).url)
    newer(elsewhere)
    with pytest.raises(IntegrityError, match=r"card\.md of tiny.synthetic could not be downloaded"):
        load(NAME)
    assert caplog.text == "", "the error tells of the last source"
    assert [k.whole for k in kept()] == [False]


def test_a_revision_that_nobody_has(elsewhere, mirror, monkeypatch):
    use(monkeypatch, mirror(elsewhere).url)
    with pytest.raises(NotFoundError, match=f"has revision .*, not {'0' * 64}"):
        load(NAME, revision="0" * 64)
    with pytest.raises(UsageError, match="64 hexadecimal digits"):
        load(NAME, revision="main")
    with pytest.raises(IntegrityError, match="has revision"):
        load(elsewhere / NAME, revision="0" * 64)
    load(elsewhere / NAME, revision=read_index()[NAME].revision)


def test_a_name_that_only_a_mirror_knows(elsewhere, mirror, tmp_path, monkeypatch):
    (tmp_path / "here" / MANIFEST).unlink()
    server = mirror(elsewhere)
    with pytest.raises(NotFoundError, match=r"no zoo entry 'tiny\.synthetic'; the zoo is empty"):
        load(NAME)
    use(monkeypatch, server.url)
    first = find_entry(NAME)
    assert [path for path, *_ in server.requests[:1]] == [f"/{NAME}/{MANIFEST}"]
    other = newer(elsewhere)
    assert find_entry(NAME, offline=True).revision == find_entry(NAME).revision == first.revision
    assert fetch_entry(NAME).revision == other
    assert find_entry(NAME, offline=True).revision == other
    assert [k.current for k in kept()] == [k.revision == other for k in kept()]
    with pytest.raises(NotFoundError, match=r"no zoo entry 'tiny.nothing'.*answered 404"):
        load("tiny.nothing")


# the hub


def test_a_hub_repository_is_a_source(elsewhere, mirror, tmp_path, monkeypatch):
    there = tmp_path / "hub" / "somebody" / NAME / "resolve" / "main"
    there.parent.mkdir(parents=True)
    shutil.copytree(elsewhere / NAME, there)
    server = mirror(tmp_path / "hub")
    monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
    monkeypatch.setenv("DIFFREC_ZOO_HUB", "somebody")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert_right(find_entry(NAME), elsewhere)
    assert {told for *_, told in server.requests} == {"Bearer hf_secret"}
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DiffrecError, match="is not on this machine"):
        load(NAME)
    assert len(server.requests) == len(FILES)


def test_a_token_stays_with_its_host(elsewhere, mirror, tmp_path, monkeypatch):
    """Hubs send large files from elsewhere."""
    storage, hub = tmp_path / "storage", tmp_path / "hub"
    (hub / "somebody" / NAME / "resolve" / "main").parent.mkdir(parents=True)
    shutil.copytree(elsewhere / NAME, hub / "somebody" / NAME / "resolve" / "main")
    shutil.copytree(hub, storage)
    other = mirror(storage)
    server = mirror(hub, *[other.url] * len(FILES))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("DIFFREC_ZOO_HUB", "somebody")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert_right(find_entry(NAME), elsewhere)
    assert {told for *_, told in server.requests} == {"Bearer hf_secret"}
    assert [told for *_, told in other.requests] == [None] * len(FILES)


@pytest.mark.parametrize("value", ["ftp://x/y", "/zoo", "x", "https://x/?a=b", "javascript:x", "http://[::1"])
def test_mirrors_that_are_none(value, monkeypatch):
    monkeypatch.setenv("DIFFREC_ZOO_MIRRORS", value)
    with pytest.raises(UsageError, match="DIFFREC_ZOO_MIRRORS holds"):
        sources()


@pytest.mark.parametrize("value", ["a/b", "../x", ".", "a b", "https://x"])
def test_owners_that_are_none(value, monkeypatch):
    monkeypatch.setenv("DIFFREC_ZOO_HUB", value)
    with pytest.raises(UsageError, match="DIFFREC_ZOO_HUB is"):
        sources()


# faults


FAULTS = ["fine", "flip", "cut", "extra", "html", "no ranges", 429, 503, "slow", "wrong length", 404, "other host"]


@pytest.mark.parametrize("seed", range(50))
def test_fault_plans_end_in_the_right_bytes_or_in_an_error_and_an_empty_place(seed, elsewhere, mirror, monkeypatch):
    rng = random.Random(seed)
    wrong = rng.random() < 0.5
    other = mirror(elsewhere, *rng.choices(FAULTS[:-1], k=4))
    plans = [rng.choices([other.url if fault == "other host" else fault for fault in FAULTS], k=n) for n in (9, 6)]
    servers = [mirror(elsewhere, *plan) for plan in plans]
    use(monkeypatch, *(server.url for server in (servers if wrong else servers[:1])))
    try:
        entry = find_entry(NAME)
    except (IntegrityError, NetworkError):
        assert [k.whole for k in kept()] == [False]
        for server in (*servers, other):
            server.plan.clear()
        entry = find_entry(NAME)  # what came before is gone on with
    assert_right(entry, elsewhere)
    load(NAME, offline=True)


def test_the_plans_hold_both_outcomes(elsewhere, mirror, monkeypatch):
    """Every fault alone: some are overcome by asking again, the others are an error."""
    outcomes = {}
    for fault in FAULTS[:-1]:
        use(monkeypatch, mirror(elsewhere, fault).url)
        try:
            outcomes[fault] = type(find_entry(NAME)).__name__
        except DiffrecError as error:
            outcomes[fault] = type(error).__name__
        shutil.rmtree(ZooCache.at(None).root)
    failed = {fault: outcome for fault, outcome in outcomes.items() if outcome != "Entry"}
    assert failed == {"flip": "IntegrityError", "extra": "IntegrityError", "html": "IntegrityError",
                      404: "NetworkError"}  # fmt: skip


def test_what_came_is_not_asked_for_again(elsewhere, mirror, monkeypatch):
    server = mirror(elsewhere, 200, "cut", "cut", "cut")
    server.plan[0] = "cut"
    use(monkeypatch, server.url)
    with pytest.raises(NetworkError, match="ended after"):
        find_entry(NAME)
    first = len(server.requests)
    server.plan.clear()
    assert_right(find_entry(NAME), elsewhere)
    size = (elsewhere / NAME / "model.safetensors").stat().st_size
    ranges = [asked for path, asked, _ in server.requests if path.endswith("model.safetensors")]
    places = [int(asked.removeprefix("bytes=")[:-1]) for asked in ranges[1:]]
    assert ranges[0] is None
    assert places == sorted(places)
    assert places[first - 1] >= size * 7 // 8 - 3


def test_a_beginning_that_is_wrong_is_thrown_away(elsewhere, mirror, monkeypatch):
    revision = read_index()[NAME].revision
    part = ZooCache.at(None).part(NAME, revision)
    for content in (b"\0" * 50, b"\0" * 10_000_000):
        part.mkdir(parents=True)
        (part / "model.safetensors.part").write_bytes(content)
        (part / "config.json").write_bytes(b"{}")
        use(monkeypatch, mirror(elsewhere).url)
        assert_right(find_entry(NAME), elsewhere)
        shutil.rmtree(part.parent)


def test_links_in_the_place_of_parts_are_not_followed(elsewhere, mirror, tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    part = ZooCache.at(None).part(NAME, read_index()[NAME].revision)
    part.mkdir(parents=True)
    (part / "card.md.part").symlink_to(victim)
    (part / "config.json").symlink_to(victim)
    use(monkeypatch, mirror(elsewhere).url)
    with pytest.raises(DiffrecError):
        find_entry(NAME)
    assert victim.read_bytes() == b"precious"


def test_a_full_disk_says_so(elsewhere, mirror, monkeypatch):
    use(monkeypatch, mirror(elsewhere).url)
    monkeypatch.setattr("os.fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(DiffrecError, match="No space left on device"):
        find_entry(NAME)
    monkeypatch.undo()


# names and the manifests of strangers


HOSTILE = [
    "", ".", "..", "../x", "../../passwd", "/etc/passwd", "//host/x", "~", "~root", "a/b", "a/../b", "a\\b", "..\\x",
    "a\0b", "\0", "a\nb", "a b", " a", "a ", "A", "Tiny.synthetic", "tiny.Synthetic", "x" * 97, "x" * 5000, "-a", ".a",
    "_a", "a%2fb", "%2e%2e", "a?b", "a#b", "a:b", "C:x", "file:x", "http:x", "a*", "a|b", "a;b", "$(id)", "`id`", "a&b",
    "\u0430", "\uff41", "a\u202eb", "é", "a\u0301", "a\tb", "\ufeffa", "a@b", "a+b", "a=b", "{a}", "[a]", "'a'", '"a"',
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_reach_neither_the_disk_nor_the_network(name, elsewhere, mirror, tmp_path, monkeypatch):
    server = mirror(elsewhere)
    use(monkeypatch, server.url)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((NotFoundError, IntegrityError)):
        find_entry(name)
    with pytest.raises(NotFoundError):
        fetch_entry(name)
    assert server.requests == []
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "manifest", [b"", b"{}", b"<html>", b"[" * 20_000, b'{"files": {}, "schema_version": 1}', b" " * 100_000]
)
def test_a_manifest_that_is_none(manifest, elsewhere, mirror, tmp_path, monkeypatch):
    (tmp_path / "here" / MANIFEST).unlink()
    (elsewhere / NAME / MANIFEST).write_bytes(manifest)
    use(monkeypatch, mirror(elsewhere).url)
    with pytest.raises(IntegrityError):
        find_entry(NAME)
    assert not (tmp_path / "cache").exists()


def test_a_manifest_cannot_name_another_place(elsewhere, mirror, tmp_path, monkeypatch):
    (tmp_path / "here" / MANIFEST).unlink()
    path = elsewhere / NAME / MANIFEST
    use(monkeypatch, mirror(elsewhere).url)
    for name in ("../x", "/x", "a/b", "~/x", "a\\\\b", "\\u0000", "card.md/..", "x.py"):
        path.write_bytes(path.read_bytes().replace(b'"card.md"', f'"{name}"'.encode()))
        with pytest.raises(IntegrityError):
            find_entry(NAME)
    assert not (tmp_path / "cache").exists()


# many processes


FIND = """
import sys
from functools import partial
from pathlib import Path
import diffrec.zoo.index
from diffrec.zoo.finding import find_entry
diffrec.zoo.index.resource_dir = lambda name: Path(sys.argv[1])
print(find_entry("tiny.synthetic").folder)
assert "torch" not in sys.modules
"""


def finder(tmp_path):
    command = [sys.executable, "-c", FIND, str(tmp_path / "here")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_sixteen_processes_ask_once(elsewhere, mirror, tmp_path, monkeypatch):
    server = mirror(elsewhere, *["slow"] * 100)
    server.pause = 0.03
    use(monkeypatch, server.url)
    processes = [finder(tmp_path) for _ in range(16)]
    answers = {process.communicate() for process in processes}
    assert [process.returncode for process in processes] == [0] * 16
    assert len(answers) == 1
    assert sorted(path for path, *_ in server.requests) == sorted(f"/{NAME}/{name}" for name in FILES)
    assert_right(find_entry(NAME, offline=True), elsewhere)
    assert {path.name for path in (tmp_path / "cache" / "zoo" / NAME).iterdir()} == {read_index()[NAME].revision}


def test_a_killed_download_is_gone_on_with(elsewhere, mirror, tmp_path, monkeypatch):
    server = mirror(elsewhere, "slow")
    server.pause = 0.3
    use(monkeypatch, server.url)
    process = finder(tmp_path)
    part = ZooCache.at(None).part(NAME, read_index()[NAME].revision) / "model.safetensors.part"
    deadline = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size > 500) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    came = part.stat().st_size
    assert came > 500
    assert [(k.whole, k.busy) for k in kept()] == [(False, False)]
    start = time.monotonic()
    assert_right(find_entry(NAME), elsewhere)
    assert time.monotonic() - start < 5  # the lease of the dead is not waited for
    assert [asked for path, asked, _ in server.requests if path.endswith("model.safetensors")] == [
        None,
        f"bytes={came}-",
    ]


# damage in the cache


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_damage_in_the_cache_is_noticed_at_load_and_taken_out(name, elsewhere, mirror, monkeypatch):
    use(monkeypatch, mirror(elsewhere).url)
    path = find_entry(NAME).folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError):
        load(NAME)
    [one] = kept()
    assert damage(one)
    ZooCache.at(None).remove(one)
    load(NAME)
    assert damage(kept()[0]) is None


def test_the_error_of_a_damaged_file_says_what_to_do(elsewhere, mirror, monkeypatch):
    use(monkeypatch, mirror(elsewhere).url)
    (find_entry(NAME).folder / "card.md").write_text("x")
    with pytest.raises(IntegrityError, match="'diffrec cache verify --remove' takes what is damaged out"):
        load(NAME)


@pytest.mark.parametrize("wrong", [None, 3, ["sasrec.ml-100k"]])
def test_what_is_no_name_is_named(wrong, unchecked_types):
    with pytest.raises(UsageError, match=r"a model is a name of 'diffrec zoo list' or the folder of an entry, got "):
        load(wrong)
