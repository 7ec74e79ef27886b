"""What waits for a paused reader: every byte in order, in few pieces, whatever packets it came in."""

from __future__ import annotations

from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from broker.bastion.backlog import PIECE_BYTES, PIECES_MAX, Backlog

ITEMS = st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.sampled_from([None, 1])), max_size=60)


def drained(backlog: Backlog) -> list[tuple[bytes, int | None]]:
    taken = []
    while backlog:
        taken.append(backlog.pop(0))
    return taken


@given(first=ITEMS, then=ITEMS)
def test_every_byte_comes_out_in_order_and_with_its_kind(
    first: list[tuple[bytes, int | None]], then: list[tuple[bytes, int | None]]
) -> None:
    backlog = Backlog()
    for item in first:
        backlog.append(item)
    taken = [backlog.pop(0)] if backlog else []
    for item in then:
        backlog.append(item)
    taken += drained(backlog)
    given_bytes = [(byte, kind) for data, kind in first + then for byte in data]
    assert [(byte, kind) for data, kind in taken for byte in data] == given_bytes
    assert len(taken) <= 1 + sum(1 for _ in groupby(first, key=lambda item: item[1])) + sum(
        1 for _ in groupby(then, key=lambda item: item[1])
    )


def test_a_window_of_one_byte_packets_is_a_few_pieces() -> None:
    backlog = Backlog()
    for _ in range(2 * 1024 * 1024):
        backlog.append((b"x", None))
    assert len(backlog) == 2 * 1024 * 1024 // PIECE_BYTES
    assert sum(len(data) for data, _ in drained(backlog)) == 2 * 1024 * 1024


def test_an_asset_that_changes_kind_with_every_byte_is_bounded_too() -> None:
    backlog = Backlog()
    for number in range(4 * PIECES_MAX):
        backlog.append((b"o" if number % 2 else b"e", number % 2))
    assert len(backlog) == PIECES_MAX
    taken = drained(backlog)
    assert b"".join(data for data, kind in taken if kind) == b"o" * (2 * PIECES_MAX)
    assert b"".join(data for data, kind in taken if not kind) == b"e" * (2 * PIECES_MAX)
