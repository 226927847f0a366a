"""Times in every notation, against datetime."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffrec.data.times import parse_times


def parse(*texts):
    times, read = parse_times(pa.array(texts, pa.string()))
    return [int(time) if ok else None for time, ok in zip(times, read, strict=True)]


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("0", 0),
        ("874724710", 874_724_710_000_000),
        ("874724710.0", 874_724_710_000_000),
        ("8.7472471e8", 874_724_710_000_000),
        ("+12", 12_000_000),
        ("-1", -1_000_000),
        ("99999999999", 99_999_999_999_000_000),
        ("1260759144123", 1_260_759_144_123_000),
        ("1260759144123456", 1_260_759_144_123_456),
        ("1260759144123456789", 1_260_759_144_123_456),
        ("1260759144.25", 1_260_759_144_250_000),
    ],
)
def test_numbers_by_size(text, microseconds):
    assert parse(text)[0] == pytest.approx(microseconds, abs=256 if len(text) > 18 else 0)


@pytest.mark.parametrize(
    "text",
    ["2014-01-02", "2014/1/2", "2014-01-02 00:00", "2014-01-02T00:00:00Z", "2014-01-02 01:00:00+01:00",
     "2014-01-01 19:00:00.000-0500", "2014-01-02 00:00:00 UTC", "2014-01-02T00:00:00,000"],
)  # fmt: skip
def test_notations_of_one_moment(text):
    assert parse(text) == [int(datetime(2014, 1, 2, tzinfo=UTC).timestamp()) * 10**6]


@pytest.mark.parametrize(
    "text",
    ["", "x", "2014", "2014-02-30", "2014-13-01", "2014-00-10", "2014-01-00", "2014-01-02 24:00", "2014-01-02 10:60",
     "12-31-2014", "1e", "nan", "inf", "1,5", "2014-01-02 10", "2014-01-02T10:00:00+1"],
)  # fmt: skip
def test_what_is_no_time(text):
    if text == "2014":
        assert parse(text) == [2_014_000_000]  # a number is a number
    else:
        assert parse(text) == [None]


def test_one_bad_text_spoils_no_other():
    assert parse("5", "?", "1970-01-01", "") == [5_000_000, None, 0, None]
    assert parse() == []


@given(
    st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)),
    st.integers(-14 * 60, 14 * 60),
)
def test_iso_dates_are_those_of_datetime(moment, minutes):
    moment = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    expected = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert parse(moment.isoformat(), moment.isoformat(" ")) == [expected, expected]


@given(st.lists(st.integers(0, 99_999_999_999)))
def test_seconds_are_exact(seconds):
    assert parse(*map(str, seconds)) == [second * 10**6 for second in seconds]
