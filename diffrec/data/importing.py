"""Anybody's table of interactions becomes a dataset of the cache; nothing is left out without being counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from diffrec.data.catalogue import check_new_name, dataset_dir, entries
from diffrec.data.dataset import Dataset
from diffrec.data.dropped import Dropped
from diffrec.data.events import Events, Sieve
from diffrec.data.folders import read_folder, save_folder
from diffrec.data.tables import ForeignTable, Form, is_number, open_table, plain
from diffrec.data.times import parse_times
from diffrec.errors import UsageError, near_match

# Usual names of columns, the likeliest first, in the form of `plain`.
USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "user": (
        "userid", "uid", "user", "customerid", "customer", "reviewerid", "visitorid", "visitor", "memberid", "member",
        "accountid", "account", "clientid", "buyerid", "buyer", "shopperid", "subscriberid", "readerid", "listenerid",
        "playerid", "personid", "profileid", "customercode", "customerno", "customernumber", "usercode", "usernumber",
        "householdkey", "householdid", "msno", "cookieid", "deviceid", "sessionid", "session", "authorid", "author",
        "username", "profilename", "reviewprofilename",
    ),
    "item": (
        "itemid", "iid", "item", "productid", "product", "parentasin", "asin", "movieid", "movie", "bookid", "book",
        "isbn", "trackid", "track", "songid", "song", "artistid", "artist", "videoid", "video", "articleid", "article",
        "businessid", "gmapid", "recipeid", "gameid", "appid", "newsid", "postid", "poi", "locationid", "sku",
        "productcode", "productno", "productnumber", "productsku", "itemcode", "itemno", "itemnumber", "itemsku",
        "articlecode", "articleno", "articlenumber", "stockcode", "goodsid", "animeid", "anime", "mangaid", "filmid",
        "film", "showid", "seriesid", "podcastid", "albumid", "album", "artid", "traid", "venueid", "venue", "placeid",
        "restaurantid", "hotelid", "listingid", "courseid", "beerid", "beerbeerid", "wineid", "jokeid", "bookmarkid",
        "paperid", "documentid", "docid", "contentid", "offerid", "adid", "jobid", "aid", "ean", "upc", "gtin",
    ),
    "timestamp": (
        "timestamp", "unixreviewtime", "unixtime", "time", "ts", "datetime", "date", "tdat", "eventtime",
        "createdat", "reviewtime", "visittime", "checkintime", "invoicedate", "eventtimestamp", "eventdate", "eventat",
        "occurredat", "purchasedat", "purchasetime", "purchasedate", "boughtat", "orderedat", "ordertime", "orderdate",
        "transactiontime", "transactiondate", "viewedat", "watchedat", "lastwatchdt", "playedat", "listenedat",
        "clickedat", "visitedat", "ratedat", "reviewedat", "reviewdate", "addedat", "createtime", "createdtime",
        "createddate", "timems", "utctime",
    ),
    "rating": ("rating", "ratings", "overall", "stars", "score", "preference", "bookrating", "reviewoverall"),
    "title": ("title", "itemtitle", "itemname", "movietitle", "producttitle", "productname", "name"),
}  # fmt: skip


@dataclass(frozen=True)
class ImportReport:
    """What an import made of a file.

    columns: the column of the file that was taken for each role; unused_rating: the column of ratings that nothing
    asked for, so that low ratings count like high ones; dropped: rows left out, by reason;
    repeats: rows in which a user comes back to an item (kept); reordered_users: users whose rows were not in
    time order in the file; ties: rows that share user and time with another (they keep the order of the file);
    form: how the file is written; unused: the other columns; users_with_three: how many users have three events, which
    leave-one-out needs.
    """

    name: str
    file: str
    encoding: str
    delimiter: str
    header: bool
    columns: dict[str, str]
    unused_rating: str | None
    rows_read: int
    rows_kept: int
    users: int
    items: int
    dropped: tuple[Dropped, ...]
    repeats: int
    reordered_users: int
    ties: int
    form: Form = "cells"
    unused: tuple[str, ...] = ()
    users_with_three: int = 0


def import_table(
    path: str | Path,
    *,
    name: str,
    user: str | None = None,
    item: str | None = None,
    timestamp: str | None = None,
    rating: str | None = None,
    min_rating: float | None = None,
    k_core: int = 0,
    title: str | None = None,
    delimiter: str | None = None,
    has_header: bool | None = None,
    force: bool = False,
) -> tuple[Dataset, ImportReport]:
    """Read a table with one interaction a row and store it under `name`, where `load_dataset` finds it.

    user, item, timestamp, rating, title: columns of the file, "1", "2", ... where it has no header; what is not
    given is guessed from the usual names. min_rating: rows below it are left out; k_core: users and items with
    fewer interactions are left out until none remains; force: replace an imported dataset of that name.
    Raises UsageError (with the line where one row is at fault), NotFoundError, IntegrityError.
    """
    _check_name(name, force)
    chosen = {"user": user, "item": item, "timestamp": timestamp, "rating": rating, "title": title}
    wanted = [column for column in chosen.values() if column]
    known = frozenset(name for names in USUAL_NAMES.values() for name in names)
    table = open_table(Path(path), wanted, known, delimiter, has_header)
    columns = _columns(table, chosen)
    if min_rating is not None and "rating" not in columns:
        raise UsageError(f"min_rating needs a rating, but no column of {table.path.name} looks like one: "
                         f"{', '.join(table.names)}")  # fmt: skip
    unused_rating = columns.pop("rating", None) if min_rating is None else None
    sieve = Sieve(table, columns)
    events = sieve.sift(min_rating, k_core)
    report = _report(name, sieve, events, unused_rating)
    description = {
        "name": name,
        "kind": "imported",
        "licence": "that of the imported file",
        "statistics": {"users": report.users, "items": report.items, "interactions": report.rows_kept},
        "import": asdict(report),
    }
    save_folder(dataset_dir(name), events.in_time_order().tables(), description, replace=force)
    return read_folder(dataset_dir(name), name), report


def _check_name(name: str, force: bool) -> None:
    check_new_name(name)
    if (entry := entries().get(name)) is None:
        return
    if entry.origin == "folder":
        raise UsageError(f"{name!r} is a folder of DIFFREC_DATA; choose another name")
    if not force:
        raise UsageError(f"the dataset {name!r} exists already; choose another name or replace it with --force")


def _columns(table: ForeignTable, chosen: Mapping[str, str | None]) -> dict[str, str]:
    """The column of each role: as given, else by its usual name (times: by their look) or, without a header, by its
    place."""
    guessed = _by_usual_name(table.names) if table.header else _by_place(table)
    columns = {role: _named(table, role, column) for role, column in chosen.items() if column}
    if "timestamp" not in guessed | columns:
        free = [name for name in table.names if name not in {*guessed.values(), *columns.values()}]
        if times := [name for name in free if _holds_times(_sampled(table, name))]:
            guessed["timestamp"] = times[0]
    columns = {role: column for role in chosen if (column := columns.get(role) or guessed.get(role))}
    if missing := [role for role in ("user", "item") if role not in columns]:
        options = " and ".join(f"--{role} COLUMN" for role in missing)
        raise UsageError(
            f"no column of {table.path.name} looks like the {' or the '.join(missing)}: "
            f"{', '.join(table.names)}; name {'them' if len(missing) > 1 else 'it'} with {options}"
        )
    if columns["user"] == columns["item"]:
        raise UsageError(f"user and item are the same column, {columns['user']!r}; name two columns")
    return columns


def _named(table: ForeignTable, role: str, column: str) -> str:
    """The column the user means; RecBole's "user_id:token" may be called "user_id"."""
    for name in table.names:
        if column in (name, name.split(":")[0]):
            return name
    raise UsageError(f"{table.path.name} has no column {column!r} for the {role}; "
                     f"it has: {', '.join(table.names)}{near_match(column, table.names)}")  # fmt: skip


def _by_usual_name(names: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for role, usual in USUAL_NAMES.items():
        matches = [column for column in names if plain(column) in usual]
        if matches:
            found[role] = min(matches, key=lambda column: usual.index(plain(column)))
    return found


def _by_place(table: ForeignTable) -> dict[str, str]:
    """User, item, then the first column of times and the first other one of numbers."""
    found: dict[str, str] = dict(zip(("user", "item"), table.names, strict=False))
    for column in table.names[2:]:
        values = _sampled(table, column)
        if _holds_times(values):
            found.setdefault("timestamp", column)
        elif is_number(values).all():
            found.setdefault("rating", column)
    return found


def _sampled(table: ForeignTable, column: str) -> pa.Array:
    """The first cells of a column, none of Parquet and JSON lines."""
    place = table.names.index(column)
    return pa.array([row[place] for row in table.sample if len(row) > place], pa.string())


def _holds_times(values: pa.Array) -> bool:
    """Are all of them times after 1973, so that ratings and counts are not taken for seconds?"""
    times, read = parse_times(values)
    return len(values) > 0 and bool(read.all() and (times > 10**14).all())


def _report(name: str, sieve: Sieve, events: Events, unused_rating: str | None) -> ImportReport:
    table = sieve.table
    return ImportReport(
        name=name,
        file=table.path.name,
        encoding=table.encoding,
        delimiter=table.delimiter,
        header=table.header,
        columns=dict(sieve.columns),
        unused_rating=unused_rating,
        rows_read=sieve.rows_read,
        rows_kept=len(events),
        users=events.num_users(),
        items=events.num_items(),
        dropped=tuple(sieve.dropped),
        repeats=events.repeats(),
        reordered_users=events.reordered_users(),
        ties=events.ties(),
        form=table.form,
        unused=tuple(column for column in table.names if column not in (*sieve.columns.values(), unused_rating)),
        users_with_three=events.num_users(least=3),
    )
