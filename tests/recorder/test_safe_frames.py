"""E17 on a terminal: whatever was recorded, only our own drawing comes out."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.cage import CagedScreen
from recorder.clean import SPOILT, clean
from recorder.format import Code, FormatError
from recorder.frames import ENTER, LEAVE, Painter, fit, plain
from recorder.replay import play
from recorder.screen import AvtScreen, Run, ScreenLost
from recorder.session_clock import SessionClock
from tests.recorder.makers import SECOND_US, HandClock, a_stream, a_writer, size_event

PRINTED: Final = "[^\x00-\x1f\x7f-\xa0\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
FRAME: Final = re.compile(rf"(?:\x1b\[\d{{1,3}};1H\x1b\[0m\x1b\[K(?:\x1b\[[0-9;]+m{PRINTED}*)*)*")
ATTACKS: Final = [
    b"\x1b]0;title\x07", b"\x1b]2;t\x1b\\\x1b[21t", b"\x1b[6n", b"\x1b[c", b"\x1b[>c", b"\x1b]52;c;ZXZpbA==\x07", b"\x1b]50;?\x07",
    b"\x1b]1337;File=name=eA==:eA==\x07", b"\x1b]8;;http://x/\x07link\x1b]8;;\x07", b'\x1bP$q"p\x1b\\', b"\x1bP1000p%begin\n",
    b"\x1bPq#0;2;0;0;0~\x1b\\", b"\x1b_Gf=24;AAAA\x1b\\", b"\x05", b"\x1b[5i text \x1b[4i", b"\x1b[?1000h\x1b[?2004h\x1b[?1049h",
    b"\x1bc", "\x9b6n".encode(), b"\x9b6n", "\x9d0;x\x9c".encode(), "\x90$qm\x9c".encode(), "\u202eevil\u2066".encode(), b"a\x7fb",
    b"\x07" * 500, b"\x1b[8;200;200t", b"\x1b]4;0;?\x07", b"\x1b[20h\x1b[12l", b"e" + "\u0301".encode() * 500, b"\x1b#8\x1b[?5h",
    b"\x1bP+q544e\x1b\\", "\U000e0041\U000e0042".encode(), b"\x1b]7;file:///etc\x07", b"\x1b[?69h\x1b[5;10s",
    b"\x1b]777;notify;a;b\x07", "\u4e2d\ufe0f\u200d\u115f\u3164".encode(), b"\xff\xfe\xed\xa0\x80\xf4\x90\x80\x80",
]  # fmt: skip


def drawn(*pieces: bytes, size: tuple[int, int] = (80, 24)) -> str:
    screen, painter = AvtScreen(80, 24), Painter(*size)
    out = ""
    for piece in pieces:
        screen.feed(piece)
        out += painter.frame(screen.rows())
    return out


def played(path: Path, **wishes: object) -> tuple[str, list[float]]:
    out, slept = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline=""), list[float]()
    play(path, out, sleep=slept.append, **wishes)  # type: ignore[arg-type]
    out.seek(0)
    return out.read(), slept


@pytest.mark.parametrize("attack", ATTACKS, ids=ascii)
def test_an_attack_cut_anywhere_draws_nothing_but_frames(attack: bytes) -> None:
    for cut in range(min(len(attack), 40) + 1):
        assert FRAME.fullmatch(drawn(b"plain " + attack[:cut], attack[cut:] + b" after"))


pieces = st.lists(
    st.one_of(
        st.binary(max_size=60),
        st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.sampled_from(ATTACKS),
        st.tuples(st.integers(0, 200), st.integers(0, 200), st.sampled_from("mHKJABCDLMPX@bhlrST")).map(
            lambda it: f"\x1b[{it[0]};{it[1]}{it[2]}".encode()
        ),
    ),
    max_size=12,
)


@given(pieces=pieces, columns=st.integers(1, 100), rows=st.integers(1, 30))
@settings(max_examples=300, deadline=None)
def test_law_10_arbitrary_output_draws_nothing_but_frames(pieces: list[bytes], columns: int, rows: int) -> None:
    out = drawn(*pieces, size=(columns, rows))
    assert FRAME.fullmatch(out)
    places = [int(row) for row in re.findall(r"\x1b\[(\d+);1H", out)]
    assert all(1 <= row <= rows for row in places)


@given(pieces=pieces, sizes=st.lists(st.tuples(st.integers(2, 30), st.integers(1, 8)), min_size=12, max_size=12))
@settings(max_examples=150, deadline=None)
def test_rows_that_were_kept_are_the_rows_that_are_shown(pieces: list[bytes], sizes: list[tuple[int, int]]) -> None:
    kept = AvtScreen(30, 8)
    for number, piece in enumerate(pieces):
        kept.feed(piece)
        if number % 3 == 2:
            kept.resize(*sizes[number])
        shown = kept.rows()
        kept._rows.clear()
        assert shown == kept.rows()
        kept.feed(piece[::2])
        kept.rows()


@given(text=st.text())
def test_clean_text_prints_and_keeps_its_length(text: str) -> None:
    assert len(clean(text)) == len(text)
    assert clean(text).isprintable()
    assert clean(clean(text)) == clean(text)


@given(cells=st.text(), columns=st.integers(1, 20))
def test_a_cropped_row_never_exceeds_its_cells(cells: str, columns: int) -> None:
    assert re.fullmatch(f"{PRINTED}*", fit(cells, columns))
    assert len(fit(cells, columns)) <= columns + 1


def test_a_wide_character_keeps_its_two_cells() -> None:
    assert fit("\u4e2d\0x", 3) == "\u4e2dx"
    assert fit("a\u4e2d\0", 2) == "a "
    assert fit("\U000e0041\0x", 3) == SPOILT + " x"


def test_colours_and_attributes_are_ours_and_unchanged_rows_are_not_drawn_again() -> None:
    screen, painter = AvtScreen(20, 3), Painter(20, 3)
    screen.feed(b"ok \x1b[1;4;31;48;2;1;2;3malarm\x1b[0m")
    first = painter.frame(screen.rows())
    assert first == "\x1b[1;1H\x1b[0m\x1b[K\x1b[0mok \x1b[0;1;4;38;5;1;48;2;1;2;3malarm\x1b[0m"
    assert painter.frame(screen.rows()) == ""
    screen.feed(b"\r\nnext")
    assert painter.frame(screen.rows()) == "\x1b[2;1H\x1b[0m\x1b[K\x1b[0mnext\x1b[0m"
    screen.resize(20, 1)
    assert "\x1b[2;1H\x1b[0m\x1b[K" in painter.frame(screen.rows())


def test_a_replay_shows_the_screen_in_its_own_time_and_restores_the_terminal(tmp_path: Path) -> None:
    clock = HandClock()
    writer = a_writer(tmp_path, clock=SessionClock(clock))
    writer.put_batch([size_event(40, 5), (Code.OUT, b"first\r\n"), (Code.IN, b"secret")])
    for pause_s in (1, 100):
        clock.now_us += pause_s * SECOND_US
        writer.put(Code.OUT, b"after %d\r\n" % pause_s)
    writer.close("done")
    text, slept = played(writer.path, speed=2.0, idle_max_us=4 * SECOND_US)
    assert text.startswith(ENTER)
    body, _, rest = text.removeprefix(ENTER).partition(LEAVE)
    assert FRAME.fullmatch(body)
    assert rest == "first\nafter 1\nafter 100\n"
    assert slept == [pytest.approx(0.5, abs=0.001), 2.0]
    assert "secret" not in text
    text, slept = played(writer.path, start_us=50 * SECOND_US)
    assert slept == [pytest.approx(51, abs=0.1)]
    assert text.removeprefix(ENTER).count("first") == 2  # on the first frame, and on what is left below


def test_a_replay_that_is_interrupted_or_meets_damage_restores_the_terminal(tmp_path: Path) -> None:
    clock = HandClock(step_us=SECOND_US)
    writer = a_writer(tmp_path, clock=SessionClock(clock))
    writer.put(Code.OUT, b"first")
    writer.put(Code.OUT, b"second")
    writer.abandon()

    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        play(writer.path, out, sleep=interrupt)
    assert LEAVE in out.getvalue()
    with writer.path.open("ab") as file:
        file.write(b"\xff" * 8)
    out = io.StringIO()
    with pytest.raises(FormatError):
        play(writer.path, out, sleep=lambda _seconds: None)
    assert LEAVE in out.getvalue()


def test_a_terminal_without_unicode_sees_question_marks(tmp_path: Path) -> None:
    path = a_stream(tmp_path, [(Code.OUT, "gr\u00fc\u00dfe".encode())])
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="")
    play(path, out, sleep=lambda _seconds: None)
    out.seek(0)
    assert "gr??e" in out.read()


def test_absurd_pauses_and_sizes_are_bounded(tmp_path: Path) -> None:
    clock = HandClock()
    writer = a_writer(tmp_path, clock=SessionClock(clock))
    writer.put_batch([size_event(65535, 65535), size_event(0, 0), (Code.RESIZE, b"odd"), (Code.OUT, b"ab")])
    clock.now_us += 1 << 54
    writer.put(Code.OUT, b"cd")
    writer.close("done")
    text, slept = played(writer.path)
    assert slept == [24 * 3600.0]
    assert "ab" in text


def test_an_emulator_that_is_too_dear_is_ended_and_the_replay_says_so(tmp_path: Path) -> None:
    path = a_stream(tmp_path, [(Code.OUT, b"before\r\n"), (Code.OUT, b"x\x1b[65535b" * 100_000)])
    text, _ = played(path, processor_max_s=1)
    _, _, rest = text.partition(LEAVE)
    assert rest == "the replay ends at 0:00:00: the emulator gave up on what follows\n"


def test_a_cage_shows_what_an_emulator_in_this_process_shows() -> None:
    output = "plain \x1b[1;31mred\x1b[0m \u4e2d\x1b[38;2;1;2;3mrgb\r\n".encode() * 40
    here = AvtScreen(40, 10)
    with CagedScreen(40, 10) as there:
        for start in range(0, len(output), 7):  # characters are cut
            assert there.feed(output[start : start + 7]) == here.feed(output[start : start + 7])
        assert there.rows() == here.rows()
        there.resize(20, 5)
        here.resize(20, 5)
        assert (there.rows(), there.size) == (here.rows(), here.size)
        there._child.kill()
        with pytest.raises(ScreenLost):
            there.rows()


NO_ROWS: Final = [
    b"0",
    b'"x"',
    b"[1]",
    b'[[["x",null,null,[10]]]]',
    b'[[["x",[256],null,[]]]]',
    b"[[[1,2]]]",
    b"[",
    b"[" * 100_000,
]


@pytest.mark.parametrize("answer", NO_ROWS, ids=lambda answer: answer[:20])
def test_a_child_taken_over_can_only_lie_in_terms_of_rows(answer: bytes) -> None:
    class Lying(CagedScreen):
        def _exchange(self, request: bytes) -> bytes:
            return answer

    with Lying(40, 10) as screen, pytest.raises(ScreenLost):
        screen.rows()


def test_a_row_as_plain_text_has_no_trailing_blanks() -> None:
    assert plain((Run("a\x1b"), Run("b  "))) == f"a{SPOILT}b"
