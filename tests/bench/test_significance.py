"""Differences between rows against explicit loops, scipy, counts by hand, and data whose truth is known."""

from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest
import scipy.stats

from diffrec.bench.badges import Evidence, Rivals, Verdict, gate, strong_across_datasets
from diffrec.bench.significance import (
    best_group,
    bootstrap_means,
    compare,
    holm,
    minimal_detectable_difference,
    standard_error,
    two_level_bootstrap,
)
from diffrec.errors import NotFoundError, UsageError

GAINS = 1 / np.log2(np.arange(2, 12))


def ndcg(rng: np.random.Generator, shape, hits: float = 0.1) -> np.ndarray:
    """What NDCG@10 of one true item looks like: mostly 0, else one of ten values."""
    return np.where(rng.random(shape) < hits, GAINS[rng.integers(0, 10, shape)], 0.0)


@pytest.fixture(scope="module")
def rows():
    """Four rows of 2,000 users; "good" finds what "base" finds and more, "bad" finds less."""
    rng = np.random.default_rng(7)
    base, luck = ndcg(rng, 2_000), rng.random(2_000)
    return {
        "base": base,
        "good": np.where(luck < 0.05, 1.0, base),
        "bad": np.where(luck < 0.5, 0.0, base),
        "twin": rng.permuted(np.stack([base, ndcg(rng, 2_000)]), axis=0)[0],
    }


def spread_of(values: dict[str, np.ndarray], a: str, b: str) -> float:
    return float(np.std(values[a] - values[b], ddof=1)) / math.sqrt(len(values[a]))


def only(comparisons):
    (comparison,) = comparisons
    return comparison


def test_resampled_means_are_those_of_a_loop_over_drawn_users():
    values = np.random.default_rng(1).random((3, 17))
    rng = np.random.default_rng(5)
    drawn = [rng.integers(0, 17, 17) for _ in range(200)]
    expected = [[row[users].mean() for users in drawn] for row in values]
    np.testing.assert_allclose(bootstrap_means(values, 200, seed=5), expected, rtol=0, atol=1e-14)
    assert not np.array_equal(bootstrap_means(values, 200, seed=5), bootstrap_means(values, 200, seed=6))


def test_memory_does_not_grow_with_the_resamples():
    values = np.ones((2, 20_000))
    tracemalloc.start()
    means = bootstrap_means(values, 1_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(means, 1, rtol=0, atol=1e-12)
    assert peak < 20 * 2**20  # users x resamples are 153 MiB


def test_intervals_are_those_of_scipy(rows):
    for c in compare(rows, "base"):
        theirs = scipy.stats.bootstrap(
            (rows["base"], rows[c.other]),
            lambda a, b, axis: (a - b).mean(axis),
            paired=True,
            method="percentile",
            n_resamples=5_000,
            batch=500,
            rng=np.random.default_rng(3),
        ).confidence_interval
        # a 2.5 % point of 5,000 draws has a standard error of .04 standard errors of the mean
        within = 0.2 * spread_of(rows, "base", c.other)
        assert (c.low, c.high) == pytest.approx((theirs.low, theirs.high), abs=within, rel=0)
        assert c.difference == pytest.approx(np.mean(rows["base"] - rows[c.other]))


def test_p_values_by_hand():
    values = {"a": np.array([0.0, 0.0, 0.5, 0.5]), "b": np.array([0.0, 0.0, 0.0, 0.5])}
    c = only(compare(values, "a", resamples=20_000))
    assert c.p_bootstrap == pytest.approx(2 * 0.75**4, abs=0.01)  # none of four draws is the one that differs
    assert (c.difference, c.p_wilcoxon, c.users) == (0.125, 1.0, 4)
    sums = np.array([sum(drawn) for drawn in itertools.product([1, 2, -3, 3], repeat=4)])
    c = only(compare({"a": np.array([0.1, 0.2, -0.3, 0.3]), "b": np.zeros(4)}, "a", resamples=20_000))
    assert c.p_bootstrap == pytest.approx(2 * np.mean(sums <= 0), abs=0.02)
    c = only(compare({"a": np.ones(3), "b": np.zeros(3)}, "a", resamples=99))
    assert c.p_bootstrap == 2 / 100


def test_few_users_that_differ_have_about_the_exact_p_of_the_signed_ranks():
    differences = np.array([0.9, 0.8, 0.7, 0.6, 0.5, -0.1, 0.4])
    exact = scipy.stats.wilcoxon(differences, method="exact").pvalue
    c = only(compare({"a": np.append(differences, np.zeros(99)), "b": np.zeros(106)}, "a", resamples=100))
    assert c.p_wilcoxon == pytest.approx(exact, abs=0.006)


def test_rows_that_are_the_same_up_to_rounding_do_not_differ():
    seeds = np.array([[0.1, 0.5], [0.2, 0.63], [0.3, 0.1]])
    assert not np.array_equal(seeds.mean(0), seeds[::-1].mean(0))
    c = only(compare({"a": seeds, "b": seeds[::-1]}, "a", resamples=99))
    assert (c.difference, c.low, c.high, c.p_bootstrap, c.p_wilcoxon, c.p_holm) == (0, 0, 0, 1, 1, 1)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.5, 0.9, 0.02]) == pytest.approx((1.0, 1.0, 0.06))
    assert holm([]) == ()


def test_a_pair_is_judged_the_same_whatever_else_is_in_the_table(rows):
    alone = only(compare({"twin": rows["twin"], "base": rows["base"]}, "base"))
    together = next(c for c in compare(rows, "base") if c.other == "twin")
    assert (alone.p_bootstrap, alone.p_wilcoxon) == (together.p_bootstrap, together.p_wilcoxon)
    assert (alone.low, alone.high) == pytest.approx((together.low, together.high), abs=1e-12, rel=0)
    back = next(c for c in compare(rows, "twin") if c.other == "base")
    assert (back.low, back.high) == pytest.approx((-together.high, -together.low), abs=1e-12, rel=0)
    assert (back.p_bootstrap, back.p_wilcoxon) == (together.p_bootstrap, together.p_wilcoxon)


def test_the_order_of_the_users_does_not_matter(rows):
    order = np.random.default_rng(0).permutation(2_000)
    for c, other in zip(compare(rows, "base"), compare({n: v[order] for n, v in rows.items()}, "base"), strict=True):
        assert (c.difference, c.p_wilcoxon) == pytest.approx((other.difference, other.p_wilcoxon), rel=1e-9)
        within = 0.2 * spread_of(rows, "base", c.other)
        assert (c.low, c.high) == pytest.approx((other.low, other.high), abs=within, rel=0)
        assert c.above == other.above


def test_seeds_are_averaged_and_users_without_a_target_left_out(rows):
    seeds = np.stack([rows["good"], rows["good"] * 0.5])
    plain = compare({"good": seeds.mean(0), "base": rows["base"]}, "good", resamples=500)
    without = np.full(3, np.nan)
    padded = {"good": np.column_stack([seeds, [without] * 2]), "base": np.append(rows["base"], without)}
    assert compare(padded, "good", resamples=500) == plain
    assert plain[0].users == 2_000


def test_the_group_of_the_best(rows):
    group = best_group({name: rows[name] for name in ("bad", "base", "twin")})
    means = {name: rows[name].mean() for name in ("base", "twin")}
    assert group.best == max(means, key=lambda name: means[name])
    assert group.level == (min(means, key=lambda name: means[name]),)
    assert [c.above for c in group.comparisons] == [False, True]
    assert best_group({"b": rows["base"], "a": rows["base"]}, resamples=99).best == "a"
    assert best_group({"alone": rows["base"]}).level == ()


def test_a_mean_carried_by_few_users_is_not_above_where_the_ranks_say_the_opposite():
    few = np.concatenate([np.ones(100), np.full(400, -0.01), np.zeros(500)])
    c = only(compare({"few": few, "zero": np.zeros(1_000)}, "few"))
    assert c.low > 0
    assert max(c.p_bootstrap, c.p_wilcoxon) < 0.001
    assert (c.p_holm, c.above) == (1.0, False)


def test_a_difference_counts_where_both_tests_find_it():
    zero = np.zeros(1_000)
    by_ranks, by_mean = zero.copy(), zero.copy()
    by_ranks[:209] = np.repeat([0.01, 1.0, -1.0], [200, 5, 4])
    by_mean[:32] = np.repeat([1.0, -0.01], [12, 20])
    c = only(compare({"model": by_ranks, "zero": zero}, "model"))
    assert c.p_wilcoxon < 0.001 < 0.05 < c.p_bootstrap == c.p_holm
    c = only(compare({"model": by_mean, "zero": zero}, "model"))
    assert c.p_bootstrap < 0.001 < 0.05 < c.p_wilcoxon == c.p_holm


@pytest.fixture(scope="module")
def null():
    """800 tables of two rows without a difference, as one reference of zeros against 800 rows of differences."""
    rng = np.random.default_rng(11)
    found = ndcg(rng, (800, 1_200), 0.15) - ndcg(rng, (800, 1_200), 0.15)
    return {"zero": np.zeros(1_200), **{str(number): row for number, row in enumerate(found)}}


def test_one_in_twenty_is_found_where_there_is_nothing(null):
    found = compare(null, "zero", resamples=1_000)
    rate = {name: np.mean([getattr(c, name) < 0.05 for c in found]) for name in ("p_bootstrap", "p_wilcoxon")}
    # three standard errors of a rate of .05 from 800 are .023
    assert all(0.027 < value < 0.073 for value in rate.values()), rate
    assert 0.027 < np.mean([not c.low <= 0 <= c.high for c in found]) < 0.073


def test_corrected_one_in_twenty_tables_has_a_finding_where_there_is_nothing():
    rng = np.random.default_rng(4)
    tables = [{str(row): ndcg(rng, 400, 0.2) for row in range(6)} for _ in range(200)]
    found = [compare(values, "0", resamples=400) for values in tables]
    assert np.mean([min(c.p_wilcoxon for c in row) < 0.05 for row in found]) > 0.12
    assert np.mean([min(c.p_holm for c in row) < 0.05 for row in found]) < 0.05 + 0.046  # three standard errors


def test_the_minimal_detectable_difference_is_found_four_times_in_five(null):
    shift = np.mean([minimal_detectable_difference(null[str(row)], null["zero"]) for row in range(100)])
    moved = {name: row + shift * (name != "zero") for name, row in null.items()}
    found = np.mean([c.p_bootstrap < 0.05 for c in compare(moved, "zero", resamples=1_000)])
    assert 0.75 < found < 0.85


def test_standard_error_by_hand():
    assert standard_error(np.array([0.0, 1.0, np.nan, 1.0, 0.0])) == pytest.approx(math.sqrt(1 / 3 / 4))
    step = minimal_detectable_difference(np.array([0.0, 1.0, 1.0, 0.0]), np.zeros(4))
    assert step == pytest.approx((1.959964 + 0.841621) * math.sqrt(1 / 3 / 4))


def methods(model, other, **options):
    return two_level_bootstrap({"model": model, "other": other}, "model", **options)["other"]


def test_seeds_alone_are_resampled_as_all_their_draws():
    means = np.array([0.1, 0.2, 0.4, 0.45, 0.8])
    every = [np.mean(drawn) - 0.3 for drawn in itertools.product(means, repeat=4)]
    assert np.var(every) == pytest.approx(np.var(means, ddof=1) / 5)
    interval = methods(np.tile(means[:, None], 10), np.full(10, 0.3))
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(every, [0.025, 0.975])), abs=0.015)
    assert interval.difference == pytest.approx(np.mean(means) - 0.3)


def test_seeds_of_two_methods_are_drawn_apart():
    """Equal values seed by seed: drawn together they would never differ."""
    seeds = np.tile([[0.1], [0.3], [0.5]], 10)
    interval = methods(seeds, seeds, resamples=500)
    assert interval.low < 0 == interval.difference < interval.high


def test_lucky_seeds_make_a_difference_of_checkpoints_but_not_of_methods():
    rng = np.random.default_rng(2)
    luck = rng.normal(0, 0.03, (120, 2, 5, 1))
    tables = 0.3 + luck + rng.normal(0, 0.1, (120, 2, 5, 150))
    over_seeds = [methods(a, b, resamples=400).p for a, b in tables]
    checkpoints = [only(compare({"a": a, "b": b}, "a", resamples=400)).p_bootstrap for a, b in tables]
    assert np.mean(np.less(checkpoints, 0.05)) > 0.5
    assert np.mean(np.less(over_seeds, 0.05)) < 0.12  # tails of five seeds are heavier than a bootstrap knows


def test_one_seed_each_is_the_paired_bootstrap(rows):
    pair = compare({"good": rows["good"], "base": rows["base"]}, "good", resamples=300)[0]
    interval = methods(rows["good"], rows["base"], resamples=300)
    expected = (pair.difference, pair.low, pair.high, pair.p_bootstrap)
    assert (interval.difference, interval.low, interval.high, interval.p) == pytest.approx(expected, rel=1e-9)


def test_a_pair_of_methods_does_not_depend_on_the_other_rows(rows):
    table = two_level_bootstrap({**rows, "more": np.stack([rows["good"], rows["base"]])}, "good", resamples=50)
    alone = methods(rows["good"], rows["base"], resamples=50)
    assert vars(table["base"]) == pytest.approx(vars(alone), rel=1e-9)
    assert "good" not in table


NAMES = ("base", "bad", "off")
NAMED = {"counting": ("base",), "strong": ("bad",), "controls": ("off",)}


def granted(values, model, **named):
    (verdicts,) = gate(values, {model: Rivals(**{**NAMED, **named})}, resamples=2_000).values()
    assert [v.badge for v in verdicts] == ["beats counting", "beats strong AR", "diffusion helps"]
    return {v.badge: v for v in verdicts}


def test_a_model_above_everything_earns_all_badges(rows):
    values = {**rows, "off": rows["base"]}
    verdicts = granted(values, "good")
    assert all(v.granted and not v.missing and not v.not_beaten for v in verdicts.values())
    strong = verdicts["beats strong AR"].comparisons
    assert [c.other for c in strong] == ["base", "bad"]
    together = compare({name: values[name] for name in ("good", "base", "bad", "off")}, "good", resamples=2_000)
    assert strong == together[:2]


def test_all_comparisons_of_a_table_are_corrected_together(rows):
    """A row that is only just better loses its badge beside others that are compared too."""
    values = {**rows, "off": rows["base"], **{f"copy{number}": rows["good"] for number in range(3)}}
    models = ("good", "copy0", "copy1", "copy2")
    table = gate(values, {name: Rivals(**NAMED) for name in models}, resamples=2_000)
    found = [c for name in models for c in (*table[name][1].comparisons, *table[name][2].comparisons)]
    apart = [compare({k: values[k] for k in (name, *NAMES)}, name, resamples=2_000) for name in models]
    alone = [comparison for row in apart for comparison in row]
    raw = [max(c.p_bootstrap, c.p_wilcoxon) for c in alone]
    assert [c.p_holm for c in found] == pytest.approx(holm(raw))
    assert max(c.p_holm for c in found) > max(c.p_holm for c in alone)


def test_a_method_whose_seeds_differ_more_than_it_gains_earns_nothing(rows):
    """Of these checkpoints the mean is better without doubt; of others of the same method nobody knows."""
    lucky = np.stack([rows["base"] + gain for gain in (0.3, -0.05, -0.05)])
    values = {**rows, "off": rows["base"], "lucky": lucky}
    verdicts = granted(values, "lucky")
    assert [v.granted for v in verdicts.values()] == [False] * 3
    assert verdicts["diffusion helps"].not_beaten == ("off",)
    assert all(c.above for v in verdicts.values() for c in v.comparisons)
    steady = granted({**values, "lucky": lucky.mean(0)}, "lucky")
    assert [v.granted for v in steady.values()] == [True] * 3


def test_a_significantly_worse_model_earns_nothing(rows):
    values = {"bad": rows["bad"], "base": rows["base"], "good": rows["good"], "off": rows["base"]}
    verdicts = granted(values, "bad", strong=("good",))
    assert [v.granted for v in verdicts.values()] == [False] * 3
    assert all(c.p_holm < 0.01 for v in verdicts.values() for c in v.comparisons)
    assert verdicts["beats strong AR"].not_beaten == ("base", "good")


@pytest.mark.parametrize(
    ("named", "badges"),
    [
        ({"counting": ("base", "equal")}, [False, False, True]),
        ({"strong": ("bad", "equal")}, [True, False, True]),
        ({"controls": ("base", "equal")}, [True, True, False]),
    ],
)
def test_a_row_that_is_not_beaten_costs_the_badges_that_name_it(rows, named, badges):
    verdicts = granted({**rows, "off": rows["base"], "equal": rows["good"][::-1]}, "good", **named)
    assert [v.granted for v in verdicts.values()] == badges
    assert [v.not_beaten for v in verdicts.values()] == [() if badge else ("equal",) for badge in badges]


@pytest.mark.parametrize(
    ("named", "missing"),
    [
        ({"counting": ("base", "ease")}, [("ease",), ("ease",), ()]),
        ({"strong": ("sasrec", "bad", "bsarec")}, [(), ("sasrec", "bsarec"), ()]),
        ({"controls": ()}, [(), (), ("any control row",)]),
        ({"counting": ()}, [("any counting row",), ("any counting row",), ()]),
        ({"strong": ()}, [(), ("any strong autoregressive row",), ()]),
    ],
)
def test_no_badge_where_a_row_is_missing_or_none_is_named(rows, named, missing):
    verdicts = granted({**rows, "off": rows["base"]}, "good", **named)
    assert [v.missing for v in verdicts.values()] == missing
    assert [v.granted for v in verdicts.values()] == [not names for names in missing]


def evidence(granted: bool = True, seeds: int = 5, draws: int | None = 3, missing: tuple[str, ...] = ()) -> Evidence:
    return Evidence(Verdict("beats strong AR", granted, missing, () if granted else ("sasrec",)), seeds, draws)


FOUR = ("beauty", "sports", "toys", "ml-1m")


def test_the_badge_needs_three_of_four_datasets():
    three = {name: evidence() for name in FOUR[:3]}
    verdict = strong_across_datasets({**three, "ml-1m": evidence(granted=False)}, FOUR)
    assert (verdict.granted, verdict.missing, verdict.not_beaten) == (True, (), ("ml-1m",))
    verdict = strong_across_datasets({**three, "toys": evidence(granted=False)}, FOUR)
    assert (verdict.granted, verdict.missing, verdict.not_beaten) == (False, ("ml-1m: not measured",), ("toys",))


@pytest.mark.parametrize(
    ("third", "missing"),
    [
        (evidence(seeds=4), "toys: 4 of 5 seeds"),
        (evidence(draws=2), "toys: 2 of 3 draws"),
        (evidence(granted=False, seeds=1, draws=1, missing=("bsarec",)), "toys: bsarec, 1 of 5 seeds, 1 of 3 draws"),
    ],
)
def test_a_dataset_with_too_few_runs_does_not_count(third, missing):
    there = {"beauty": evidence(), "sports": evidence(draws=None), "toys": third}
    verdict = strong_across_datasets(there, FOUR[:3])
    assert (verdict.granted, verdict.missing) == (False, (missing,))


def test_the_datasets_of_the_badge_are_checked():
    with pytest.raises(UsageError, match="at least 3 datasets, got beauty, sports"):
        strong_across_datasets({}, ("beauty", "sports", "beauty"))
    with pytest.raises(NotFoundError, match=r"no dataset of the gate 'toy'.*did you mean 'toys'"):
        strong_across_datasets({"toy": evidence()}, FOUR)
    wrong = Evidence(Verdict("beats counting", True, (), ()), 5, 3)
    with pytest.raises(UsageError, match="toys: the verdict must be on 'beats strong AR', got 'beats counting'"):
        strong_across_datasets({"toys": wrong}, FOUR)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (np.zeros(4), "different users cannot be paired: model has 5, other 4"),
        (np.array([0, 0, 0, 0, np.nan]), "different users cannot be paired: 2 are NaN in model or other only"),
        (
            np.array([[0, 0, 0, np.nan, 0], [0, 0, 0, 0, 0]]),
            "different users cannot be paired: 1 are NaN in model or other only",
        ),
        (np.array([0, np.inf, 0, np.nan, 0]), "other holds infinite values"),
        (np.zeros((0, 5)), r"other must be \(users,\) or \(seeds, users\), got shape \(0, 5\)"),
        (np.zeros((1, 1, 5)), r"other must be .* got shape \(1, 1, 5\)"),
    ],
)
def test_rows_of_different_users_or_shapes_are_refused(other, message):
    row = np.array([0, 1, 0, np.nan, 0.5])
    for function in (lambda v: compare(v, "model"), best_group, lambda v: two_level_bootstrap(v, "model")):
        with pytest.raises(UsageError, match=message):
            function({"model": row, "other": other})


def test_other_arguments_are_checked(rows):
    with pytest.raises(NotFoundError, match=r"no row 'bass'; .*did you mean 'base'"):
        compare(rows, "bass")
    with pytest.raises(NotFoundError, match="no row 'god'"):
        gate(rows, {"god": Rivals(**NAMED)})
    with pytest.raises(UsageError, match="base is among the rows that it has to beat: base, bad, off"):
        gate(rows, {"base": Rivals(**NAMED)})
    with pytest.raises(UsageError, match="resamples must be a whole number from 1, got 0"):
        compare(rows, "base", resamples=0)
    with pytest.raises(UsageError, match="seed must be a whole number from 0, got -1"):
        best_group(rows, seed=-1)
    with pytest.raises(UsageError, match="at least 2 users with a target are needed, got 1"):
        standard_error(np.array([1.0, np.nan]))
    with pytest.raises(UsageError, match="there are no rows to compare"):
        best_group({})
