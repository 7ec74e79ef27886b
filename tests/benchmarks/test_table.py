"""The table of `make bench` tells the truth about its bars; nothing here is timed."""

from __future__ import annotations

import math

import pytest

from benchmarks.table import GATE, JUMP, SCRIPT, Bar, Of, Row, markdown, p99


def row(theirs: list[float], ours: list[float], bar: Bar | None) -> Row:
    return Row("something", "ms", {JUMP: theirs, GATE: ours}, bar)


def test_the_ratio_is_that_of_the_medians_so_one_bad_round_decides_nothing() -> None:
    taken = row([100, 100, 9000], [50, 5000, 50], Bar(0.7))
    assert not taken.missed
    assert taken.ratio == 0.5
    assert taken.spread == pytest.approx((50 / 9000, 50))


@pytest.mark.parametrize(("ours", "missed"), [(69.9, False), (70, False), (70.1, True)])
def test_a_ratio_above_its_bar_is_missed(ours: float, missed: bool) -> None:
    assert row([100], [ours], Bar(0.7)).missed is missed


@pytest.mark.parametrize(("ours", "missed"), [(69.9, True), (70, False), (400, False)])
def test_a_speed_below_its_bar_is_missed(ours: float, missed: bool) -> None:
    assert row([100], [ours], Bar(0.7, at_least=True)).missed is missed


@pytest.mark.parametrize(("ours", "missed"), [(256, False), (256.1, True)])
def test_a_bar_on_the_value_asks_nothing_of_the_rival(ours: float, missed: bool) -> None:
    assert Row("memory", "KiB", {GATE: [ours]}, Bar(256, of=Of.VALUE)).missed is missed


def test_what_was_not_measured_is_missed() -> None:
    assert Row("x", "ms", {JUMP: [1.0]}, Bar(0.7)).missed
    assert Row("x", "ms", {GATE: [1.0]}, Bar(0.7)).missed
    assert row([1.0], [math.nan], Bar(0.7)).missed
    assert row([1.0], [math.nan], Bar(0.7, at_least=True)).missed


def test_a_row_without_a_bar_is_never_missed() -> None:
    assert not row([1], [1000], None).missed


def test_the_table_says_holds_and_missed_and_shows_the_rival_that_cannot() -> None:
    good, bad = row([100, 100], [50, 60], Bar(0.7)), row([100, 100], [90, 80], Bar(0.7))
    lines = markdown([good, bad])
    assert lines[2] == "| something | 100 ms | - | 55.0 ms | 0.55 x | 0.50 to 0.60 | <= 0.7 x | holds |"
    assert lines[3].endswith("| 0.85 x | 0.80 to 0.90 | <= 0.7 x | MISSED |")
    assert {line.count("|") for line in lines} == {9}
    memory = markdown([Row("memory", "KiB", {SCRIPT: [900], GATE: [300]}, Bar(256, of=Of.VALUE))])[2]
    assert memory == "| memory | - | 900 KiB | 300 KiB | - | - | <= 256 KiB | MISSED |"


def test_p99_is_the_value_that_one_in_a_hundred_exceeds() -> None:
    assert p99([float(one) for one in range(100, 0, -1)]) == 100
    assert p99([float(one) for one in range(1000)]) == 990
    assert p99([5.0]) == 5
