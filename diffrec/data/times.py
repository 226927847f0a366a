"""Points in time as people write them: epoch seconds, milliseconds and finer, ISO dates."""

# pyarrow.compute makes its functions when it is imported, where a type checker cannot see them.
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diffrec.data.tables import is_number

_ISO = (
    r"^(?P<year>\d{4})[-/](?P<month>\d{1,2})[-/](?P<day>\d{1,2})"
    r"(?:[T ]+(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?)?"
    r" ?(?:Z|UTC|GMT|(?P<sign>[+-])(?P<zone_hour>\d{2}):?(?P<zone_minute>\d{2})?)?$"
)
# An absolute value below the first bound is in seconds, below the second in milliseconds, then micro, then nano.
_BOUNDS = (10**11, 10**14, 10**17)


def parse_times(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(rows,) microseconds since 1970 (UTC where no zone is given) and (rows,) bool: could it be read?

    The unit of a number is told by its size, so seconds stand for the years up to 5138.
    """
    read = is_number(texts)
    times = _epoch(pc.if_else(pa.array(read), texts, "0"))
    rest = np.flatnonzero(~read)
    times[rest], read[rest] = _iso(texts.take(pa.array(rest)))
    return times, read


def _epoch(texts: pa.Array) -> np.ndarray:
    """Numbers of any unit to microseconds; whole ones of up to 18 digits exactly."""
    whole = pc.match_substring_regex(texts, r"^[+-]?\d{1,18}$")
    digits = pc.replace_substring_regex(pc.if_else(whole, texts, "0"), r"^\+", "")
    exact = digits.cast(pa.int64()).to_numpy()
    inexact = pc.if_else(whole, "0", texts).cast(pa.float64()).to_numpy()
    value = np.where(whole.to_numpy(zero_copy_only=False), exact, 0)
    unit = np.digitize(np.maximum(np.abs(exact), np.abs(inexact)), _BOUNDS)
    scaled = np.choose(unit, [value * 10**6, value * 10**3, value, value // 10**3])
    fine = np.rint(inexact * np.choose(unit, [1e6, 1e3, 1.0, 1e-3]))
    return scaled + np.clip(fine, -(2.0**62), 2.0**62).astype(np.int64)


def _iso(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """ISO 8601 dates, with or without a time and a zone, to microseconds; and which texts are such dates."""
    fields = pc.extract_regex(texts, _ISO)
    matched = fields.is_valid().to_numpy(zero_copy_only=False)

    def field(name: str) -> np.ndarray:
        text = fields.field(name)
        return pc.if_else(pc.equal(pc.fill_null(text, ""), ""), "0", text).cast(pa.int64()).to_numpy()

    year, month, day, hour, minute, second = map(field, ("year", "month", "day", "hour", "minute", "second"))
    months = (year - 1970) * 12 + month - 1
    days = months.astype("datetime64[M]").astype("datetime64[D]") + (day - 1)
    read = matched & (month >= 1) & (month <= 12) & (day >= 1) & (hour < 24) & (minute < 60) & (second < 61)
    read &= days.astype("datetime64[M]").astype(np.int64) == months
    zone = (field("zone_hour") * 60 + field("zone_minute")) * np.where(
        pc.equal(pc.fill_null(fields.field("sign"), ""), "-").to_numpy(zero_copy_only=False), -60, 60
    )
    fraction = pc.utf8_slice_codeunits(pc.utf8_rpad(pc.fill_null(fields.field("fraction"), ""), 6, "0"), 0, 6)
    seconds = days.astype(np.int64) * 86_400 + hour * 3600 + minute * 60 + second - zone
    return seconds * 10**6 + fraction.cast(pa.int64()).to_numpy(), read
