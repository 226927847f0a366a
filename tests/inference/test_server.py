"""The HTTP service: answers of the model itself, refusals that say what was seen and allowed, never a trace."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("httpx", reason="the test client needs it")

from fastapi.testclient import TestClient

from diffrec.cli.main import main
from diffrec.data.vocabulary import Vocabulary
from diffrec.errors import DiffrecError
from diffrec.inference.batching import Batcher, Question, TooManyWaiting
from diffrec.inference.server import Limits, build_app
from diffrec.models import DreamRec, SASRec
from diffrec.zoo import save

VOCABULARY = Vocabulary(
    tuple(f"f{n}" for n in range(1, 31)), ("The Sting (1973)", *(f"Film {n}" for n in range(2, 31)))
)
LIMITS = Limits(k=20, history=9, steps=50, body=2000, batch=8, waiting=16)


def named(model):
    model.vocabulary = VOCABULARY
    return model.eval()


@pytest.fixture(scope="module")
def dreamrec():
    torch.manual_seed(0)
    return named(DreamRec(30, num_train_timesteps=8))


@pytest.fixture(scope="module")
def client(dreamrec):
    app = build_app(dreamrec, "dreamrec.films", LIMITS)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client
    app.state.batcher.close()


def test_a_list_is_that_of_the_model(client, dreamrec):
    asked = {"history": ["sting, the (1973)", "f9"], "k": 4, "seed": 3, "num_inference_steps": 5, "guidance_scale": 1.0}
    told = client.post("/recommend", json=asked)
    assert told.status_code == 200
    best = dreamrec.recommend(["f1", "f9"], 4, seed=3, num_inference_steps=5, guidance_scale=1.0)
    rows = told.json()["recommendations"]
    assert [row["id"] for row in rows] == [f"f{n}" for n in best.items[0].tolist()]
    assert [row["score"] for row in rows] == pytest.approx(best.scores[0].tolist(), rel=1e-4)
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    assert told.json()["history"] == [{"id": "f1", "title": "The Sting (1973)"}, {"id": "f9", "title": "Film 9"}]
    again = client.post("/recommend", json={"history": ["f1", "f9"], "k": 4})
    assert [row["id"] for row in again.json()["recommendations"]] == [
        f"f{n}" for n in dreamrec.recommend(["f1", "f9"], 4).items[0].tolist()
    ], "steps and guidance of one request are gone after it"


def test_seen_items_and_a_new_user(client, dreamrec):
    history = [f"f{n}" for n in range(1, 10)]
    for seen in (True, False):
        told = client.post("/recommend", json={"history": history, "k": 20, "include_seen": seen}).json()
        listed = [row["id"] for row in told["recommendations"]]
        best = dreamrec.recommend(history, 20, exclude_seen=not seen)
        assert listed == [f"f{n}" for n in best.items[0].tolist()]
        assert bool({*listed} & {*history}) == seen
    assert len(client.post("/recommend", json={"history": []}).json()["recommendations"]) == 10


def test_a_list_ends_where_there_are_no_more_items(dreamrec):
    app = build_app(dreamrec, "dreamrec.films", Limits(k=10**9))
    with TestClient(app) as client:
        told = client.post("/recommend", json={"history": ["f1", "f2"], "k": 10**9}).json()
    app.state.batcher.close()
    assert {row["id"] for row in told["recommendations"]} == {f"f{n}" for n in range(3, 31)}


def test_health_and_models(client):
    assert client.get("/health").json() == {"status": "ok", "waiting": 0}
    [told] = client.get("/models").json()
    assert (told["name"], told["model"], told["items"], told["denoiser_calls"]) == (
        "dreamrec.films",
        "DreamRec",
        30,
        16,
    )
    assert told["settings"] == ["num_inference_steps", "guidance_scale"]
    assert told["limits"]["k"] == 20
    assert client.get("/openapi.json").status_code == 200


REFUSED = {
    "no history": ({"k": 3}, "history: Field required"),
    "a text": ({"history": "f1"}, "history: Input should be a valid list, got 'f1'"),
    "a number for an id": ({"history": [7]}, "history.0: Input should be a valid string, got 7"),
    "too long": ({"history": ["f1"] * 10}, "history: List should have at most 9 items"),
    "k too large": ({"history": [], "k": 21}, "k: Input should be less than or equal to 20, got 21"),
    "k of another type": ({"history": [], "k": "3"}, "k: Input should be a valid integer, got '3'"),
    "k true": ({"history": [], "k": True}, "k: Input should be a valid integer, got True"),
    "unknown key": ({"history": [], "what": 3}, "what: Extra inputs are not permitted, got 3"),
    "nearly a key": ({"history": [], "seeds": 3}, "seeds: Extra inputs are not permitted; did you mean 'seed'?, got 3"),
    "unknown item": (
        {"history": ["f1", "Film 31"]},
        "no title or item id 'Film 31' among 30 items; did you mean",
    ),
    "long text": ({"history": ["x" * 1500]}, "a title or id of 1500 characters; at most 1000"),
    "steps": (
        {"history": ["f1"], "num_inference_steps": 9},
        "num_inference_steps must be a whole number in 1..8, got 9",
    ),
    "negative seed": ({"history": [], "seed": -1}, "seed: Input should be greater than or equal to 0, got -1"),
    "a list": ([1], "body: Input should be a valid dictionary"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_what_was_seen_and_what_is_allowed(name, client):
    body, message = REFUSED[name]
    told = client.post("/recommend", json=body)
    assert told.status_code == 422
    assert message in told.json()["detail"]


RAW = [b"", b"{", b"\xff\xfe", b'{"history": [], "guidance_scale": NaN}', b'{"history": [], "guidance_scale": 1e999}',
       b'{"history": ["\\ud800"]}', b'{"\\ud800": 1, "history": []}', b"[" * 1900,
       b'{"history": [], "seed": 1' + b"0" * 1500 + b"}",
       b'{"history": [], "k": 1.0}', b"null", b'{"history": [], "seed": 9223372036854775808}']  # fmt: skip


@pytest.mark.parametrize("body", RAW, ids=range(len(RAW)))
def test_bodies_that_are_no_such_json(body, client):
    told = client.post("/recommend", content=body, headers={"content-type": "application/json"})
    assert told.status_code == 422
    assert told.json().keys() == {"detail", "faults"}
    assert "Traceback" not in told.text


def test_what_is_no_json_is_told_as_such(client):
    """As curl sends it where one forgets the header, or a quote."""
    told = client.post("/recommend", content=b'{"history": []}', headers={"content-type": "text/plain"})
    assert "body: Input should come with the header 'content-type: application/json', got " in told.json()["detail"]
    told = client.post("/recommend", content=b"{history", headers={"content-type": "application/json"})
    seen = "Input should be JSON (Expecting property name enclosed in double quotes), got 'other text at character 1'"
    assert told.json()["detail"] == f"body: {seen}"


def test_large_bodies_whether_their_length_is_told_or_not(client):
    large = json.dumps({"history": ["x" * 3000]}).encode()
    for content in (large, (large[place : place + 500] for place in range(0, len(large), 500))):
        told = client.post("/recommend", content=content, headers={"content-type": "application/json"})
        assert told.status_code == 413
        assert told.json()["detail"] == "the body has more than 2,000 bytes"


def test_one_near_match_at_a_time_and_nobody_waits_for_it(client, monkeypatch):
    suggestion, held, go = Vocabulary._suggestion, threading.Event(), threading.Event()

    def waiting(self, query):
        held.set()
        go.wait(5)
        return suggestion(self, query)

    monkeypatch.setattr(Vocabulary, "_suggestion", waiting)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/recommend", json={"history": ["Film 31"]})
        assert held.wait(10)
        second = client.post("/recommend", json={"history": ["f1", "Film 32"]})
        known = client.post("/recommend", json={"history": ["f1"]})
        assert not first.done()
        go.set()
    assert (second.status_code, second.json()["detail"]) == (422, "no title or item id 'Film 32' among 30 items")
    assert known.status_code == 200
    assert "among 30 items; did you mean" in first.result().json()["detail"]


def test_bodies_that_do_not_come_hold_a_place_for_a_while_and_the_places_are_counted(dreamrec):
    app = build_app(dreamrec, "dreamrec.films", Limits(batch=1, waiting=1, seconds=1))
    headers = [(b"content-type", b"application/json")]

    async def asked(method, path, *bodies):
        """Status, headers and answer of a request whose body stalls after these pieces, unless the last is empty."""
        pieces, told = [{"type": "http.request", "body": body, "more_body": bool(body)} for body in bodies], []

        async def receive():
            return pieces.pop(0) if pieces else await asyncio.Event().wait()

        async def send(message):
            told.append(message)

        scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": headers}
        await app(scope, receive, send)
        return told[0]["status"], dict(told[0]["headers"]), json.loads(told[1]["body"])

    async def asking():
        stalled = [asyncio.create_task(asked("POST", "/recommend", b'{"history": ')) for _ in range(3)]
        await asyncio.sleep(0)
        meanwhile = [await asked("POST", "/recommend", b'{"history": []}', b""), await asked("GET", "/health")]
        return [*meanwhile, *await asyncio.gather(*stalled), await asked("POST", "/recommend", b'{"history": []}', b"")]

    more, health, *stalled, later = asyncio.run(asyncio.wait_for(asking(), 10))
    app.state.batcher.close()
    assert (more[0], more[2]["detail"]) == (429, "3 requests are under way already; ask again later")
    assert health[0] == 200
    for status, _, told in stalled:
        assert (status, told["detail"]) == (408, "the body did not come within 1 s")
    assert all(told[b"connection"] == b"close" for _, told, _ in [more, *stalled])
    assert later[0] == 200


def test_other_places_and_methods(client):
    places = "there are POST /recommend, GET /health, GET /models, GET /openapi.json"
    assert client.get("/nothing").json() == {"detail": f"Not Found; {places}", "faults": []}
    told = client.get("/recommend")
    assert told.json()["detail"] == f"Method Not Allowed; {places}"
    assert (told.status_code, told.headers["allow"]) == (405, "POST")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = ("history", "k", "seed", "include_seen", "num_inference_steps", "guidance_scale", "other")


@given(st.dictionaries(st.sampled_from(FIELDS), json_values | st.just(["f1"])) | json_values)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_is_answered_or_refused(client, body):
    told = client.post("/recommend", content=json.dumps(body), headers={"content-type": "application/json"})
    assert told.status_code in (200, 413, 422)
    assert told.json()


def test_a_model_that_fails_gives_no_trace(monkeypatch):
    model = named(SASRec(30))
    app = build_app(model, "broken")
    with TestClient(app, raise_server_exceptions=False) as client:
        monkeypatch.setattr(model, "score", lambda history, noise=None: torch.full((len(history), 30), torch.nan))
        told = client.post("/recommend", json={"history": ["f1"]})
        assert (told.status_code, told.json()["detail"]) == (
            500,
            "SASRec gave non-finite scores: the checkpoint is broken",
        )
        monkeypatch.setattr(model, "score", lambda history, noise=None: 1 / 0)
        told = client.post("/recommend", json={"history": ["f1"]})
        assert (told.status_code, told.json()["detail"]) == (
            500,
            "this was not expected; the log of the server says more",
        )
        monkeypatch.undo()
        assert client.post("/recommend", json={"history": ["f1"]}).status_code == 200, "the thread lives on"
    app.state.batcher.close()


# the queue


def test_who_else_asks_changes_nothing(dreamrec):
    """Twenty callers at once get what each gets alone, in fewer batches than there are callers."""
    questions = [
        Question(tuple(range(1, 1 + n % 7)), 3 + n % 4, n % 3, False, (None, 4)[n % 2], (None, 0.0)[n % 4 == 0])
        for n in range(20)
    ]
    batcher = Batcher(dreamrec, max_batch=8, max_waiting=64)
    held, go = threading.Event(), threading.Event()
    recommend = dreamrec.recommend

    def waiting(*args, **options):
        held.set()
        go.wait(10)
        return recommend(*args, **options)

    dreamrec.__dict__["recommend"] = waiting
    try:
        first = batcher.ask(Question((5,)))
        assert held.wait(10)
        answers = [batcher.ask(question) for question in questions]
        go.set()
        got = [answer.result(30).items.tolist() for answer in answers]
        first.result(30)
    finally:
        del dreamrec.__dict__["recommend"]
        batcher.close()
    assert (batcher.questions, batcher.batches) == (21, 10), "1 alone, then 8 + 8 + 4, in three kinds each"
    for question, items in zip(questions, got, strict=True):
        alone = dreamrec.recommend(
            torch.tensor([question.history], dtype=torch.int64), question.k, seed=question.seed,
            num_inference_steps=question.num_inference_steps, guidance_scale=question.guidance_scale,
        )  # fmt: skip
        assert items == alone.items.tolist()


def test_closing_answers_what_is_waiting_and_ends_the_thread(dreamrec):
    batcher = Batcher(dreamrec)
    answers = [batcher.ask(Question((1,), seed=n)) for n in range(30)]
    batcher.close()
    assert all(answer.done() for answer in answers)
    assert not batcher.thread.is_alive()


def test_a_full_queue_is_429(dreamrec):
    batcher = Batcher(dreamrec, max_waiting=2)
    go, recommend = threading.Event(), dreamrec.recommend
    dreamrec.__dict__["recommend"] = lambda *args, **options: (go.wait(10), recommend(*args, **options))[1]
    try:
        answers = [batcher.ask(Question((1,)))]
        while batcher.waiting.qsize():
            pass
        answers += [batcher.ask(Question((1,))) for _ in range(2)]
        with pytest.raises(TooManyWaiting, match="2 requests are waiting already"):
            batcher.ask(Question((1,)))
        go.set()
        assert len({tuple(answer.result(10).items[0].tolist()) for answer in answers}) == 1
    finally:
        go.set()
        del dreamrec.__dict__["recommend"]
        batcher.close()
    assert issubclass(TooManyWaiting, DiffrecError)


# the command


def test_the_command_serves_this_machine_only(tmp_path, monkeypatch, capsys):
    import uvicorn

    entry, servers = save(named(SASRec(30)), tmp_path / "sasrec.films", include_titles=True), []

    class Remembered(uvicorn.Server):
        def __init__(self, config):
            super().__init__(config)
            servers.append(self)

    monkeypatch.setattr("uvicorn.Server", Remembered)
    codes = []
    command = threading.Thread(target=lambda: codes.append(main(["serve", str(entry), "--port", "0"])))
    command.start()
    told = ""
    while "Ctrl-C" not in told and command.is_alive():
        time.sleep(0.01)
        told += capsys.readouterr().err
    assert told.startswith(f"serving {entry} on http://127.0.0.1:")
    address = told.split()[3]

    def ask(_):
        body = json.dumps({"history": ["Film 2"], "k": 3}).encode()
        request = urllib.request.Request(f"{address}/recommend", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)["recommendations"]

    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(ask, range(16)))
    servers[0].should_exit = True
    command.join(30)
    assert codes == [0]
    assert all(answer == answers[0] for answer in answers)
    assert len(answers[0]) == 3


def test_an_address_that_cannot_be_had(capsys):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "sasrec.ml-100k", "--port", str(port)]) == 2
        assert f"cannot listen on 127.0.0.1, port {port}: Address already in use" in capsys.readouterr().err
    assert main(["serve", "sasrec.ml-100k", "--port", "0", "--threads", "0"]) == 2
    assert "threads must be a whole number from 1, got 0" in capsys.readouterr().err


def test_the_extra_is_named_where_it_is_missing(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["serve", "sasrec.ml-100k"]) == 2
    assert "pip install 'diffrec[serve]'" in capsys.readouterr().err
