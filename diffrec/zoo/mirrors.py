"""Where entries come from that are not on this machine: mirrors, then a namespace of a Hugging Face hub.

Nothing is asked unless one of them is set:

DIFFREC_ZOO_MIRRORS  base URLs (https, http, file) with spaces between them, in the order they are asked;
                     an entry lies at <base>/<name>/<file>, as in a copy of a zoo folder
DIFFREC_ZOO_HUB      an owner on the hub, whose repository <owner>/<name> holds the files of an entry;
                     HF_ENDPOINT, HF_HUB_OFFLINE and the token of huggingface_hub are respected
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from diffrec.errors import UsageError

_SCHEMES = ("https", "http", "file")
OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_TRUE = {"1", "ON", "YES", "TRUE"}  # as huggingface_hub reads its variables


@dataclass(frozen=True)
class Source:
    """base: what stands before `/<name>` in a URL; inside: what stands between the name and the file; headers: sent
    along."""

    base: str
    inside: str = ""
    headers: Mapping[str, str] | None = None

    def url(self, name: str, file: str) -> str:
        """Of one file of an entry; both are names that hold no character with a meaning in a URL."""
        return f"{self.base}/{name}/{self.inside}{file}"

    @property
    def on_this_machine(self) -> bool:
        """Whether no network is needed."""
        return self.base.startswith("file:")


def sources() -> list[Source]:
    """Those that are set, in the order they are asked; UsageError for a setting that is none."""
    found = [_mirror(base) for base in os.environ.get("DIFFREC_ZOO_MIRRORS", "").split()]
    if owner := os.environ.get("DIFFREC_ZOO_HUB", ""):
        found += _hub(owner)
    return found


def _mirror(base: str) -> Source:
    try:
        parts = urlsplit(base)
        is_one = parts.scheme in _SCHEMES and not parts.query and not parts.fragment
    except ValueError:
        is_one = False
    if not is_one:
        raise UsageError(f"DIFFREC_ZOO_MIRRORS holds {base!r}; a mirror is a URL that begins with https, http or file")
    return Source(base.rstrip("/"))


def _hub(owner: str) -> list[Source]:
    if not OWNER.fullmatch(owner):
        raise UsageError(f"DIFFREC_ZOO_HUB is {owner!r}; it must be the name of a user or an organisation on the hub")
    if hub_is_offline():
        return []
    token = hub_token()
    headers = {"Authorization": f"Bearer {token}"} if token else None
    return [Source(f"{hub_endpoint()}/{owner}", "resolve/main/", headers)]


def hub_is_offline() -> bool:
    """Whether nothing may be asked of a hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE


def hub_endpoint() -> str:
    """The URL of the hub."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def hub_token() -> str | None:
    """What huggingface_hub would send, where it is installed."""
    try:
        from huggingface_hub import get_token
    except ImportError:
        return os.environ.get("HF_TOKEN")
    return get_token()
