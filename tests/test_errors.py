"""Messages name what was seen, what is allowed and the near match."""

from __future__ import annotations

import math

import pytest

from diffrec.errors import NotFoundError, UsageError, check_numbers, check_sizes, choose, listed, near_match


def test_the_near_match_ignores_case():
    assert near_match("DREAMREK", ["dreamrec", "diffrec"]) == "; did you mean 'dreamrec'?"
    assert near_match("xyz", ["dreamrec"]) == ""


def test_the_near_match_of_a_beginning_is_the_only_word_that_has_it():
    words = ["DDIMScheduler", "DDPMScheduler"]
    assert near_match("DDIM", words) == "; did you mean 'DDIMScheduler'?"
    assert near_match("DD", words) == ""


def test_choose_gives_what_it_was_given_or_names_the_choices():
    assert choose("schedule", "linear", ["linear", "cosine"]) == "linear"
    with pytest.raises(
        NotFoundError, match=r"^no schedule 'liner'; there are: cosine, linear; did you mean 'linear'\?$"
    ):
        choose("schedule", "liner", ["linear", "cosine"])


def test_of_many_words_those_like_the_wrong_one_are_listed():
    few = [f"model{number:02}" for number in range(20)]
    assert listed(reversed(few), "x") == ", ".join(few)
    assert listed([*few, "sasrec"], "sasrek").endswith(", sasrec and 13 more")


def test_sizes(unchecked_types):
    check_sizes(width=1, dims=(3, 1), layers=[7])
    check_sizes(least=2, width=2)
    for wrong in (0, -3):
        with pytest.raises(UsageError, match=f"^width must be a whole number from 1, got {wrong}$"):
            check_sizes(height=4, width=wrong)
    with pytest.raises(UsageError, match=r"^width must be a whole number from 2, got 1$"):
        check_sizes(least=2, width=1)
    for other, seen in (("3", "'3'"), (True, "True"), (2.0, r"2\.0"), (None, "None")):
        with pytest.raises(UsageError, match=f"^width must be a whole number from 1, got {seen}$"):
            check_sizes(width=other)


@pytest.mark.parametrize("wrong", [(), [], (3, 0), [-1]])
def test_lists_of_sizes(wrong):
    with pytest.raises(UsageError, match=r"^dims must be whole numbers, at least one, from 1, got "):
        check_sizes(dims=wrong)


def test_numbers(unchecked_types):
    check_numbers(shift=-3.5, scale=1e30)
    check_numbers(low=0.0, high=1.0, dropout=0.0, drop=0.999)
    with pytest.raises(UsageError, match=r"^drop must be a finite number from 0 to below 1, got 1\.0$"):
        check_numbers(low=0.0, high=1.0, dropout=0.5, drop=1.0)
    with pytest.raises(UsageError, match=r"^lr must be a finite number from 0, got -0\.1$"):
        check_numbers(low=0.0, lr=-0.1)
    check_numbers(above=0.0, most=1.0, decay=1.0)
    for decay in (0.0, 1.5):
        with pytest.raises(UsageError, match=f"^decay must be a finite number above 0 up to 1, got {decay}$"):
            check_numbers(above=0.0, most=1.0, decay=decay)
    for other, seen in (("3", "'3'"), (True, "True"), (None, "None")):
        with pytest.raises(UsageError, match=f"^lr must be a finite number, got {seen}$"):
            check_numbers(lr=other)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_numbers_are_finite(wrong):
    with pytest.raises(UsageError, match=f"^scale must be a finite number, got {wrong}$"):
        check_numbers(scale=wrong)
