"""What a terminal shows is known from its output however that is cut, and our own word changes nothing in it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.bastion.picture import Picture, aside

ALTERNATE = [b"\x1b[?1049h", b"\x1b[?47h", b"\x1b[?1047h", b"\x1b[?25;1049h", b"\x1b[?1049;2004h"]
MAIN = [b"\x1b[?1049l", b"\x1b[?47l", b"\x1b[?1047l", b"\x1b[?1049;25l", b"\x1bc"]
NEITHER = [
    b"plain words\r\n",
    "grün €".encode(),
    b"\x1b[31m",
    b"\x1b[?25h",
    b"\x1b[?1048h",
    b"\x1b[1049h",
    b"\x1b(B",
    b"\x1b]0;a title\x07",
    b"\x1b]8;;http://x\x1b\\",
    b"\x1bPq#0;2;0\x1b\\",
]


def seen(*pieces: bytes) -> Picture:
    picture = Picture()
    for piece in pieces:
        picture.feed(piece)
    return picture


@given(st.lists(st.sampled_from([*ALTERNATE, *MAIN, *NEITHER])), st.lists(st.integers(0, 400)))
def test_the_screen_in_use_is_known_however_the_output_is_cut(output: list[bytes], cuts: list[int]) -> None:
    full = False
    for piece in output:
        full = True if piece in ALTERNATE else False if piece in MAIN else full
    whole = b"".join(output)
    ends = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    picture = seen(*(whole[start:end] for start, end in pairwise(ends)))
    assert picture.is_full_screen is full
    assert picture.is_between
    assert bool(picture.leave()) is full


@pytest.mark.parametrize("piece", [one for one in [*ALTERNATE, *MAIN, *NEITHER] if b"\x1b" in one])
def test_inside_a_sequence_is_no_place_for_a_word(piece: bytes) -> None:
    for cut in range(1, len(piece)):
        assert not seen(piece[:cut]).is_between, piece[:cut]
        assert seen(piece[:cut], piece[cut:]).is_between


@pytest.mark.parametrize("character", ["é", "€", "🔋"])
def test_inside_a_character_is_no_place_for_a_word(character: str) -> None:
    raw = character.encode()
    for cut in range(1, len(raw)):
        assert not seen(b"x" + raw[:cut]).is_between
        assert seen(raw[:cut], raw[cut:]).is_between


@given(st.lists(st.binary(max_size=600), max_size=20))
def test_any_bytes_are_taken_and_little_is_kept(pieces: list[bytes]) -> None:
    picture = seen(*pieces)
    assert len(picture._begun) + len(picture._last) <= 131
    picture.feed(b"\x18\x1b[0m\x1b[?1049h")
    assert (picture.is_full_screen, picture.is_between) == (True, True)


@given(st.text())
def test_whatever_our_word_says_it_is_two_notifications_and_a_bell(text: str) -> None:
    raw = aside(text)
    assert (raw.count(b"\x1b"), raw.count(b"\x07"), raw[-1:]) == (4, 1, b"\x07")
    assert seen(raw).is_between
