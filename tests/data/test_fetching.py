"""Downloads against a local server that misbehaves in every way: the right bytes, or an error and an empty place."""

from __future__ import annotations

import hashlib
import io
import random
import threading
import time
import urllib.request
import zipfile
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from diffrec.data import fetching
from diffrec.data.fetching import Manner, Missing, download, read_members, read_url
from diffrec.errors import IntegrityError, NetworkError, UsageError

CONTENT = bytes(range(256)) * 400
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Faulty(BaseHTTPRequestHandler):
    """Serves the fault plan of the server: one entry a request, the last one for ever."""

    def do_GET(self):
        plan = self.server.plan  # type: ignore[attr-defined]
        fault = plan.pop(0) if len(plan) > 1 else plan[0]
        self.server.requests += 1  # type: ignore[attr-defined]
        body = {"flip": b"\1" + CONTENT[1:], "extra": CONTENT + b"x", "html": b"<html>Log in</html>"}.get(
            fault, CONTENT
        )
        if isinstance(fault, int):
            return self.send_error(fault)
        what, _, stated = fault.partition(" ")
        if what == "to":
            self.send_response(302)
            self.send_header("Location", stated)
            return self.end_headers()
        if what == "drip":
            return self.drip(stated)
        self.send_response(200)
        if fault != "no length":
            self.send_header("Content-Length", stated if what == "length" else str(len(body)))
        self.end_headers()
        self.serve(fault, body)

    def serve(self, fault, body):
        if fault == "cut":
            self.wfile.write(body[:1000])
        elif fault == "stall":
            self.wfile.write(body[:1000])
            time.sleep(0.6)
        elif fault == "trickle":
            for place in range(40):
                self.wfile.write(body[place : place + 1])
                self.wfile.flush()
                time.sleep(0.02)
        else:
            self.wfile.write(body)

    def drip(self, piece):
        """An answer whose headers do not end for 0.8 seconds."""
        for _ in range(40):
            self.wfile.write(piece.encode())
            time.sleep(0.02)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    """`server(*plan)` -> URL; `server.http.requests` counts."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), Faulty)
    http.daemon_threads = True
    http.block_on_close = False

    def start(*plan):
        http.plan, http.requests = list(plan), 0  # type: ignore[attr-defined]
        return f"http://127.0.0.1:{http.server_address[1]}/file.bin"

    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    start.http = http  # type: ignore[attr-defined]
    yield start
    http.shutdown()
    http.server_close()


def get(url, folder, **options):
    manner = Manner(timeout=0.3, wait=0.01, deadline=options.pop("deadline", 600.0))
    return download(url, folder / "slot" / "file.bin", manner=manner, **{"sha256": SHA256, **options})


def assert_nothing_there(folder):
    assert list((folder / "slot").iterdir()) == []


@pytest.mark.parametrize("plan", [["fine"], [503, "fine"], [429, 500, "fine"], ["cut", "fine"], ["no length"]])
def test_the_right_bytes_come_in_the_end(server, tmp_path, plan):
    path = get(server(*plan), tmp_path)
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == ["file.bin"]
    assert server.http.requests == len(plan)


@pytest.mark.parametrize("fault", ["flip", "extra", "html"])
def test_wrong_bytes_are_refused(server, tmp_path, fault):
    with pytest.raises(IntegrityError, match=SHA256):
        get(server(fault), tmp_path)
    assert_nothing_there(tmp_path)


def test_what_is_there_survives_a_refused_download(server, tmp_path):
    (tmp_path / "slot").mkdir()
    (tmp_path / "slot" / "file.bin").write_bytes(b"old")
    with pytest.raises(IntegrityError):
        get(server("flip"), tmp_path)
    assert (tmp_path / "slot" / "file.bin").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("fault", "message", "requests"),
    [
        ("cut", "ended after 1,000 of 102,400 bytes", 3),
        (503, "answered 503", 3),
        (404, "answered 404", 1),
        (403, "answered 403", 1),
        ("stall", "broke off after", 3),
        ("to file:///etc/hostname", "not allowed", 1),
        ("to ftp://127.0.0.1:9/x", "only http and https are followed", 1),
        ("to http://[::1", "points to, no address", 1),
        ("to http://a..b/", "points to, no address", 1),
        (f"to http://{'a' * 70}.org/", "points to, no address", 1),
        ("to http://a\xbdb/", "points to, no address", 1),
        ("length abc", "states the length 'abc', which is no number of bytes", 3),
        ("length 102,400", "states the length '102,400'", 3),
        ("length 102400, 102400", "states the length '102400, 102400'", 3),
        ("length -5", "states the length '-5'", 3),
        ("length ", "states the length ''", 3),
        (f"length {'9' * 5000}", "states the length '9999", 3),
    ],
)
def test_failures_are_named_and_only_passing_ones_tried_again(server, tmp_path, fault, message, requests):
    with pytest.raises(NetworkError, match=message):
        get(server(fault), tmp_path)
    assert_nothing_there(tmp_path)
    assert server.http.requests == requests


@pytest.mark.parametrize("fault", ["trickle", "drip HTTP/1.1", "drip HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_trickle_ends_at_the_deadline(server, tmp_path, fault):
    start = time.monotonic()
    with pytest.raises(NetworkError, match=r"too slow: \d+ bytes in 0.1 seconds"):
        get(server(fault), tmp_path, deadline=0.1)
    assert time.monotonic() - start < 0.5
    assert_nothing_there(tmp_path)


@pytest.mark.parametrize("host", ["a..b", "[::1", "a" * 70 + ".org", "\u2100.org"])
def test_an_address_that_is_none_cannot_be_reached(tmp_path, host):
    with pytest.raises(NetworkError, match="cannot be reached: it is, or points to, no address"):
        get(f"http://{host}/file.bin", tmp_path)


def test_a_body_over_the_cap_is_refused(server, tmp_path):
    with pytest.raises(IntegrityError, match="larger than the 100,000 bytes allowed"):
        get(server("fine"), tmp_path, max_bytes=100_000)
    assert_nothing_there(tmp_path)


def test_a_host_that_cannot_be_reached_is_not_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching.time, "sleep", lambda seconds: pytest.fail("waited for another attempt"))
    with pytest.raises(NetworkError, match="cannot be reached"):
        get("http://127.0.0.1:9/file.bin", tmp_path)
    assert_nothing_there(tmp_path)


@pytest.mark.parametrize("place", ["open", "read"])
def test_what_the_network_refuses_is_not_the_disk(place, tmp_path, monkeypatch):
    """The system has no route to a host, at once or in the middle: tried again, and no error of writing."""
    asked = []

    class Answer(io.BytesIO):
        status, headers = 200, HTTPMessage()

        def read1(self, size=-1):
            raise OSError(113, "No route to host")

    def opened(request, timeout):
        asked.append(place)
        return Answer() if place == "read" else Answer().read1()

    monkeypatch.setattr(fetching._OPENER, "open", opened)
    with pytest.raises(NetworkError, match="broke off after 0 bytes: No route to host"):
        get("http://127.0.0.1:9/file.bin", tmp_path)
    assert len(asked) == 3
    assert_nothing_there(tmp_path)


def test_file_urls_go_the_same_way_and_work_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFREC_OFFLINE", "1")
    (tmp_path / "there.bin").write_bytes(CONTENT)
    assert get((tmp_path / "there.bin").as_uri(), tmp_path).read_bytes() == CONTENT
    with pytest.raises(IntegrityError):
        get((tmp_path / "there.bin").as_uri(), tmp_path, sha256="0" * 64)
    with pytest.raises(NetworkError, match="cannot be reached"):
        get((tmp_path / "gone.bin").as_uri(), tmp_path)


def test_offline_asks_nobody(server, tmp_path, monkeypatch):
    url = server("fine")
    monkeypatch.setenv("DIFFREC_OFFLINE", "1")
    with pytest.raises(NetworkError, match="DIFFREC_OFFLINE=1 forbids downloads"):
        get(url, tmp_path)
    assert server.http.requests == 0


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "data:,x", "/etc/hostname", "javascript:x"])
def test_other_schemes_are_refused(tmp_path, url):
    with pytest.raises(UsageError, match="allowed are http, https and file"):
        get(url, tmp_path)


def test_a_page_is_read_into_memory_and_only_so_much_of_it(server):
    assert read_url(server(503, "fine"), len(CONTENT), Manner(wait=0.01)) == CONTENT
    with pytest.raises(IntegrityError, match="larger than the 1,000 bytes allowed"):
        read_url(server("fine"), 1000)
    with pytest.raises(Missing, match="answered 404"):
        read_url(server(404), 1000)


def test_a_partial_file_stays_after_a_fault_and_goes_after_wrong_bytes(server, tmp_path):
    part = tmp_path / "slot" / "beginning"
    with pytest.raises(NetworkError, match="ended after"):
        get(server("cut"), tmp_path, partial=part)
    assert part.read_bytes() == CONTENT[:1000]
    assert get(server("fine"), tmp_path, partial=part).read_bytes() == CONTENT  # which sends everything again
    assert [path.name for path in part.parent.iterdir()] == ["file.bin"]
    with pytest.raises(IntegrityError):
        get(server("flip"), tmp_path, partial=part)
    assert [path.name for path in part.parent.iterdir()] == ["file.bin"]


def test_a_partial_file_that_is_complete_asks_nobody(server, tmp_path):
    part = tmp_path / "beginning"
    part.write_bytes(CONTENT)
    url = server("fine")
    assert get(url, tmp_path, partial=part).read_bytes() == CONTENT
    assert server.http.requests == 0


def test_whoever_downloads_can_be_stopped_and_keeps_what_came(server, tmp_path):
    class Stopped(Exception):
        pass

    def stop():
        raise Stopped

    part, target = tmp_path / "beginning", tmp_path / "file.bin"
    with pytest.raises(Stopped):
        download(server("fine"), target, sha256=SHA256, partial=part, manner=Manner(alive=stop))
    assert part.exists()
    assert not target.exists()


@pytest.mark.parametrize(("old", "new", "allowed"), [
    ("https://a/x", "http://a/x", False),
    ("https://a/x", "https://b/x", True),
    ("http://a/x", "http://b/x", True),
    ("http://a/x", "http://a/y", True),
])  # fmt: skip
def test_redirects_keep_secrets_and_encryption(old, new, allowed):
    request = urllib.request.Request(old, headers={"Authorization": "Bearer x", "Range": "bytes=5-"})
    handler = fetching._Redirects()
    if not allowed:
        with pytest.raises(NetworkError, match="not encrypted"):
            handler.redirect_request(request, io.BytesIO(), 302, "", HTTPMessage(), new)
        return
    followed = handler.redirect_request(request, io.BytesIO(), 302, "", HTTPMessage(), new)
    assert followed is not None
    assert followed.get_header("Range") == "bytes=5-"
    assert (followed.get_header("Authorization") == "Bearer x") == (new.split("/")[2] == "a")


def archive(folder, **members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    path = folder / "a.zip"
    path.write_bytes(buffer.getvalue())
    return path


def test_named_members_are_read_and_nothing_else_is_touched(tmp_path):
    path = archive(tmp_path, good=b"abc", **{"../evil": b"x"})
    assert read_members(path, {"good": 3}) == {"good": b"abc"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize(("name", "limit"), [("good", 2), ("bomb", 1000), ("missing", 10)])
def test_members_that_are_too_large_or_missing(tmp_path, name, limit):
    path = archive(tmp_path, good=b"abc", bomb=b"\0" * 1_000_000)
    with pytest.raises(IntegrityError, match="not the archive"):
        read_members(path, {name: limit})


@pytest.mark.parametrize("keep", [0, 10, 60, -10])
def test_a_cut_archive(tmp_path, keep):
    path = archive(tmp_path, good=b"abc" * 100)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(IntegrityError, match="not the archive"):
        read_members(path, {"good": 300})


def changed(content, **places):
    """A zip of one member in which bytes of its entry in the directory, from `place` on, are others."""
    content = bytearray(content)
    directory = content.index(b"PK\1\2")
    for place, value in places.items():
        start = directory + int(place.removeprefix("at"))
        content[start : start + len(value)] = value
    return bytes(content)


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_flipped_bits_of_an_archive_are_found(tmp_path, packing):
    buffer, good = io.BytesIO(), random.Random(1).randbytes(60) + b"abc" * 60
    with zipfile.ZipFile(buffer, "w", packing) as opened:
        opened.writestr("good", good)
    path, refused = tmp_path / "a.zip", 0
    for bit in range(8 * len(buffer.getvalue())):
        content = bytearray(buffer.getvalue())
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        try:
            assert read_members(path, {"good": 1000}) == {"good": good}
        except IntegrityError:
            refused += 1
    assert refused > 4 * len(buffer.getvalue())


@pytest.mark.parametrize("places", [
    {"at42": b"\xff\xff\xff\x7f"},  # where the member begins
    {"at42": b"\x05\0\0\0"},
    {"at16": b"\0\0\0\0"},  # its checksum
    {"at8": b"\x01\0"},  # encrypted
    {"at8": b"\0\x08", "at46": b"\xff\xff\xff\xff"},  # a name that is said to be UTF-8
    {"at6": b"\xff\0"},  # version
    {"at10": b"\x63\0"},  # how it is packed
])  # fmt: skip
def test_a_directory_that_lies(tmp_path, places):
    path = archive(tmp_path, good=b"abc" * 100)
    path.write_bytes(changed(path.read_bytes(), **places))
    with pytest.raises(IntegrityError, match="not the archive"):
        read_members(path, {"good": 300})


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packings_that_unfold_without_a_limit_are_not_read(tmp_path, packing):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", packing) as opened:
        opened.writestr("good", b"\0" * 10)
    with pytest.raises(IntegrityError, match="only stored and deflated files are read"):
        read_members(tmp_path / "a.zip", {"good": 10})


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr("good", b"abc")
        opened.writestr("good", b"abd")
    with pytest.raises(IntegrityError, match="more than once"):
        read_members(tmp_path / "a.zip", {"good": 3})
