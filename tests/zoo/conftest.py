"""Models small enough to be saved and damaged a thousand times."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import sys
import threading
import time
import types
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch
from torch import nn

import diffrec.models
from diffrec.baselines import Popularity
from diffrec.data.fetching import Manner
from diffrec.data.synthetic import synthetic
from diffrec.recommender import Recommender
from diffrec.zoo import save
from diffrec.zoo.entry import MANIFEST
from diffrec.zoo.index import rebuild_index

NUM_ITEMS = 100


class Tiny(Recommender):
    """The mean of item vectors, times all item vectors."""

    def __init__(
        self, num_items: int, width: int = 4, widths: tuple[int, ...] = (2, 3), scale: float | None = 1.0
    ) -> None:
        super().__init__(num_items, max_history_length=5)
        self.items = nn.Embedding(num_items + 1, width, padding_idx=0)
        self.parts = nn.ModuleList(nn.Linear(width, size) for size in widths)
        self.register_buffer("steps", torch.arange(3))
        self.scale = scale

    def score(self, history, *, noise=None):
        return self.items(history).sum(1) @ self.items.weight[1:].T * (self.scale or 1.0)


@pytest.fixture(scope="session")
def dataset():
    """100 items with titles."""
    return synthetic()


@pytest.fixture(scope="session")
def tiny_class():
    """A torch model that diffrec.models exports for the length of the test run."""
    Tiny.__module__ = "diffrec.models.tiny"
    sys.modules["diffrec.models.tiny"] = types.ModuleType("diffrec.models.tiny", "Tiny: a model for tests.")
    diffrec.models.__dict__["Tiny"] = Tiny
    yield Tiny
    del diffrec.models.__dict__["Tiny"], sys.modules["diffrec.models.tiny"]


@pytest.fixture
def tiny(tiny_class, dataset):
    """A model with random weights and the vocabulary of the dataset."""
    torch.manual_seed(0)
    model = tiny_class(NUM_ITEMS).eval()
    model.vocabulary = dataset.vocabulary
    return model


@pytest.fixture
def entry(tiny, dataset, tmp_path):
    """The saved `tiny`."""
    facts = {"command": "diffrec fit", "seed": 3, "epochs": 2, "seconds": 1.5}
    return save(tiny, tmp_path / "tiny.synthetic", dataset=dataset, protocol="loo-full-masked@1",
                metrics={"ndcg@10": 0.25, "recall@10": 0.5}, training=facts)  # fmt: skip


@pytest.fixture
def popularity(dataset):
    """A solved closed form."""
    model = Popularity(NUM_ITEMS)
    model.solve(dataset.parts["all"].items)
    model.vocabulary = dataset.vocabulary
    return model.eval()


class Mirror(BaseHTTPRequestHandler):
    """Serves a folder, each request with the next fault of the plan, and "fine" when the plan has ended."""

    protocol_version = "HTTP/1.0"

    def do_GET(self):
        server: Any = self.server
        with server.guard:
            fault = server.plan.pop(0) if server.plan else "fine"
            server.requests.append((self.path, self.headers.get("Range"), self.headers.get("Authorization")))
        path = server.folder / self.path.lstrip("/")
        if isinstance(fault, int) or not path.is_file():
            return self.send_error(fault if isinstance(fault, int) else 404)
        if isinstance(fault, str) and fault.startswith("http"):
            self.send_response(302)
            self.send_header("Location", fault + self.path)
            return self.end_headers()
        self.answer(fault, path.read_bytes())

    def do_POST(self):
        """As much of the API of a hub as publishing asks for; what is committed is served from then on."""
        server: Any = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server.requests.append((self.path, None, self.headers.get("Authorization")))
        if server.plan:
            return self.send_error(server.plan.pop(0))
        sent = [json.loads(line) for line in body.splitlines()]
        answer: dict[str, Any] = {}
        if self.path == "/api/repos/create":
            answer["url"] = f"{server.url}/{sent[0]['organization']}/{sent[0]['name']}"
        elif self.path.endswith("/preupload/main"):
            kinds = {"uploadMode": "regular", "shouldIgnore": False}
            answer["files"] = [{"path": file["path"], **kinds} for file in sent[0]["files"]]
        elif self.path.endswith("/commit/main"):
            repository = self.path.removeprefix("/api/models/").removesuffix("/commit/main")
            answer = {"commitUrl": f"{server.url}/{repository}/commit/{'1' * 40}", "commitOid": "1" * 40}
            for line in sent[1:]:
                path = server.folder / repository / "resolve" / "main" / line["value"]["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(line["value"]["content"]))
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def answer(self, fault, content):
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and fault != "no ranges" else 0
        if start >= len(content) and start:
            return self.send_error(416)
        body = bytearray(content[start:])
        if fault == "flip":
            body[len(body) // 2] ^= 1
        elif fault == "extra":
            body += b"x"
        elif fault == "html":
            body, start = bytearray(b"<html>Log in</html>"), 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(body) + 7 * (fault == "wrong length")))
        self.end_headers()
        self.serve(fault, body)

    def serve(self, fault, body):
        server: Any = self.server
        if fault == "cut":
            body = body[: len(body) // 2]
        pieces = 10 if fault == "slow" else 1
        size = -(-len(body) // pieces)
        with contextlib.suppress(OSError):
            for start in range(0, len(body), max(size, 1)):
                self.wfile.write(body[start : start + size])
                self.wfile.flush()
                time.sleep(server.pause if fault == "slow" else 0)

    def log_message(self, *args):
        pass


@pytest.fixture
def mirror():
    """`mirror(folder, *plan)`: a server of that folder; its `url`, and the `requests` that it saw."""
    servers = []

    def start(folder, *plan):
        server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
        server.daemon_threads, server.block_on_close = True, False
        server.folder, server.plan, server.requests, server.pause = folder, list(plan), [], 0.002
        server.guard = threading.Lock()
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def elsewhere(entry, tmp_path, monkeypatch):
    """A zoo that lists `tiny.synthetic`, whose files are only in the folder that is returned; an empty cache."""
    rebuild_index(entry.parent)
    here = tmp_path / "here"
    here.mkdir()
    shutil.copy(entry.parent / MANIFEST, here)
    there = tmp_path / "there"
    there.mkdir()
    entry.rename(there / entry.name)
    monkeypatch.setattr("diffrec.zoo.index.resource_dir", lambda name: here)
    monkeypatch.setenv("DIFFREC_CACHE", str(tmp_path / "cache"))
    for name in ("DIFFREC_ZOO_MIRRORS", "DIFFREC_ZOO_HUB", "DIFFREC_OFFLINE", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("diffrec.zoo.finding.Manner", partial(Manner, wait=0.005, timeout=0.5))
    return there
