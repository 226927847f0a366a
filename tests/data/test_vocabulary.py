"""Titles and ids to item numbers: spellings, commas, suggestions, ambiguity."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import pytest

from diffrec.data.vocabulary import Vocabulary
from diffrec.errors import NotFoundError, UsageError

TITLES = (
    "Alien (1979)",  # 1
    "Aliens (1986)",
    "Alien: Resurrection (1997)",
    "Godfather, The (1972)",
    "Good, The Bad and The Ugly, The (1966)",  # 5
    "20,000 Leagues Under the Sea (1954)",
    "Cape Fear (1991)",
    "Cape Fear (1962)",
    "Chasing Amy (1997)",
    "Chasing Amy (1997)",  # 10
    "Horseman on the Roof, The (Hussard sur le toit, Le) (1995)",
    "187 (1997)",
    "Fish Called Wanda, A (1988)",
    "",
    "7",  # 15: a title that looks like the id of another item
    "Sex, Lies, and Videotape (1989)",
)
VOCABULARY = Vocabulary((*(str(number + 100) for number in range(1, len(TITLES))), "7"), TITLES)


@pytest.mark.parametrize(
    ("query", "number"),
    [
        ("Alien (1979)", 1),
        ("  alien   (1979) ", 1),
        ("ALIENS (1986)", 2),
        ("Godfather, The (1972)", 4),
        ("The Godfather (1972)", 4),
        ("Godfather,The (1972)", 4),
        ("The Good, the Bad and the Ugly (1966)", 5),
        ("The Horseman on the Roof (Hussard sur le toit, Le) (1995)", 11),
        ("A Fish Called Wanda (1988)", 13),
        ("101", 1),
        ("id:101", 1),
        ("id: 109", 9),
        ("7", 15),
        ("id:7", 16),
    ],
)
def test_number_finds_titles_in_common_spellings_and_ids(query, number):
    assert VOCABULARY.number(query) == number


@pytest.mark.parametrize(
    ("query", "suggestion"),
    [
        ("Alien", "; did you mean 'Alien (1979)'?"),
        ("alien (1980)", "; did you mean 'Alien (1979)'?"),
        ("Cape Fear", "; did you mean 'Cape Fear (1991)' or 'Cape Fear (1962)'?"),
        ("Chasing Amy", "; did you mean 'Chasing Amy (1997)'?"),
        ("The Godfather", "; did you mean 'Godfather, The (1972)'?"),
        ("resurrection", "; did you mean 'Alien: Resurrection (1997)'?"),
        ("Aliems (1986)", "; did you mean 'Aliens (1986)'?"),
        ("id:1155", "; did you mean '115'?"),
        ("Qwertz", ""),
    ],
)
def test_an_unknown_title_names_what_was_probably_meant(query, suggestion):
    with pytest.raises(NotFoundError) as caught:
        VOCABULARY.number(query)
    assert str(caught.value) == f"no title or item id {query!r} among 16 items{suggestion}"


def test_what_is_spelt_alike_is_looked_for_up_to_a_hundred_characters():
    vocabulary = Vocabulary(("1", "2"), ("x" * 100, "y" * 101 + " (1999)"))
    with pytest.raises(NotFoundError, match=r"did you mean 'x{100}'"):
        vocabulary.number("x" * 99 + "y")
    with pytest.raises(NotFoundError, match=r"among 2 items$"):
        vocabulary.number("x" * 100 + "y")
    with pytest.raises(NotFoundError, match=r"did you mean 'y{101} \(1999\)'"):
        vocabulary.number("y" * 101)


def test_an_ambiguous_title_names_the_ids_and_these_work():
    with pytest.raises(UsageError, match=r"belongs to 2 items; name one of 'id:109', 'id:110'"):
        VOCABULARY.number("chasing amy (1997)")
    assert [VOCABULARY.number(query) for query in ("id:109", "id:110")] == [9, 10]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Alien (1979),Aliens (1986)", [1, 2]),
        ("Alien (1979) , Aliens (1986),", [1, 2]),
        (",,Alien (1979),, 102", [1, 2]),
        ("Godfather, The (1972), Alien (1979)", [4, 1]),
        ("The Good, the Bad and the Ugly (1966),Good, The Bad and The Ugly, The (1966)", [5, 5]),
        ("20,000 Leagues Under the Sea (1954),20, 000 leagues under the sea (1954)", [6, 6]),
        ("Sex, Lies, and Videotape (1989),Sex,Lies,and Videotape (1989)", [16, 16]),
        ("id:7,7,id:101", [16, 15, 1]),
        ("Alien (1979),Alien (1979)", [1, 1]),
    ],
)
def test_histories_with_commas_inside_titles(text, numbers):
    assert VOCABULARY.parse_history(text) == numbers


def test_every_order_of_all_unambiguous_titles_is_read_back():
    known = [number for number, title in enumerate(TITLES, start=1) if title and TITLES.count(title) == 1]
    for order in (known, known[::-1], known[1::2] + known[::2]):
        assert VOCABULARY.parse_history(",".join(TITLES[number - 1] for number in order)) == order


@pytest.mark.parametrize("text", ["", " ", ",", " , ,"])
def test_an_empty_history_is_refused(text):
    with pytest.raises(UsageError, match="the history is empty"):
        VOCABULARY.parse_history(text)


def test_one_unknown_item_of_a_history_is_named():
    with pytest.raises(NotFoundError, match=r"no title or item id 'Alien' .* did you mean 'Alien \(1979\)'"):
        VOCABULARY.parse_history("Godfather, The (1972),Alien,Aliens (1986)")


def test_all_unknown_items_of_a_history_are_named():
    with pytest.raises(NotFoundError) as caught:
        VOCABULARY.parse_history("Alien,Aliens (1986),zzz,Alien")
    assert re.fullmatch(
        r"2 texts are no title or item id among \d+ items: 'Alien' \(did you mean 'Alien \(1979\)'\?\), 'zzz'",
        str(caught.value),
    )
    with pytest.raises(NotFoundError, match=r"^8 texts are no .*'q1', 'q2', 'q3', 'q4', 'q5' and 3 more$"):
        VOCABULARY.numbers([f"q{place}" for place in range(1, 9)])


def test_ids_alone():
    vocabulary = Vocabulary(("a,b", "a", "b", "B07"))
    assert vocabulary.parse_history("a,b,b,a,id:a,b, B07") == [1, 3, 2, 1, 4]
    with pytest.raises(NotFoundError, match=r"no item id 'b07' among 4 items; did you mean 'B07'\?"):
        vocabulary.number("b07")


def test_labels():
    assert [VOCABULARY.label(number) for number in (1, 14)] == ["Alien (1979)", "114"]
    assert Vocabulary(("x",)).label(1) == "x"
    for number in (0, 17):
        with pytest.raises(NotFoundError, match=r"outside 1\.\.16"):
            VOCABULARY.label(number)


def test_titles_must_fit_the_ids():
    with pytest.raises(ValueError, match="1 titles for 2 items"):
        Vocabulary(("a", "b"), ("A",))


@pytest.mark.real_data
def test_histories_of_real_titles_are_read_back(real_data):
    vocabulary = real_data("ml100k").vocabulary
    spellings = [" ".join(title.lower().split()) for title in vocabulary.titles]
    twice = {title for title in spellings if spellings.count(title) > 1}
    clear = [number for number, title in enumerate(spellings, start=1) if title not in twice]
    assert len(clear) > 1600
    assert twice
    for start in range(0, len(clear) - 10, 10):
        history = clear[start : start + 10]
        assert vocabulary.parse_history(", ".join(vocabulary.label(number) for number in history)) == history
    for title in twice:
        with pytest.raises(UsageError, match="belongs to"):
            vocabulary.number(title)
    assert vocabulary.label(vocabulary.number("the godfather (1972)")) == "Godfather, The (1972)"
    with pytest.raises(NotFoundError, match=r"did you mean 'Alien \(1979\)'\?"):
        vocabulary.number("Alien")


@dataclass(frozen=True)
class Source:
    """Titles that come later; `asked` counts how often."""

    found: tuple[str, ...] | None
    asked: list = field(default_factory=list, compare=False)
    how_to_get: str = "ask the publisher"

    def titles(self, item_ids):
        self.asked.append(item_ids)
        return self.found


def test_titles_of_a_source_are_asked_for_once_and_only_when_needed():
    vocabulary = Vocabulary(("x", "y"), source=Source(("X", "Y")))
    assert vocabulary == Vocabulary(("x", "y"), source=Source(("X", "Y")))
    assert len({vocabulary, Vocabulary(("x", "y"), source=Source(None))}) == 2
    assert vocabulary.source.asked == []
    assert (vocabulary.label(2), vocabulary.number("X"), vocabulary.missing_titles) == ("Y", 1, "")
    assert vocabulary.source.asked == [("x", "y")]


def test_labels_of_a_list_end_where_it_ends_and_a_vocabulary_is_told_in_a_line():
    films = Vocabulary(("7", "9"), ("Alien (1979)", ""))
    assert films.labels(np.array([2, 1, 0])) == ["9", "Alien (1979)"]
    assert repr(films) == "<Vocabulary of 2 items, with titles>"
    assert repr(Vocabulary(tuple(map(str, range(10_000))))) == "<Vocabulary of 10,000 items, no titles>"


def test_a_source_without_titles_says_how_to_get_them():
    vocabulary = Vocabulary(("x", "y"), source=Source(None))
    assert vocabulary.label(2) == "y"
    assert vocabulary.missing_titles == "ask the publisher"
    with pytest.raises(NotFoundError, match="no item id 'Alien' among 2 items; ask the publisher"):
        vocabulary.number("Alien")
    assert Vocabulary(("x",)).missing_titles == ""
