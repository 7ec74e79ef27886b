"""Help: for every command, on both flags, in eighty columns and without colour."""

from __future__ import annotations

import pytest
import typer

from broker.cli.program import ROOMS, app
from tests.cli.deployment import leaves, run_here, run_program


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_every_command_explains_itself_on_both_flags() -> None:
    words = [()] + [path[:depth] for path, _ in leaves() for depth in range(1, len(path) + 1)]
    assert len(set(words)) > 40
    for path in sorted(set(words)):
        long, short = run_here(*path, "--help"), run_here(*path, "-h")
        assert (long.status, long.err) == (0, ""), path
        assert long == short
        assert long.out.startswith(f"Usage: {' '.join(('wicketgate', *path))}")
        assert max(len(line) for line in long.out.splitlines()) <= 80, path
        assert "\x1b" not in long.out


def test_every_option_and_command_says_what_it_is_for() -> None:
    for path, command in leaves():
        assert command.help, path


def test_the_list_of_commands_has_each_ones_own_first_line() -> None:
    context = typer.Context(typer.main.get_command(app))
    group = typer.main.get_command(app)
    for room in ROOMS.values():
        for name, line in room.items():
            told = (group.get_command(context, name).help or "").strip().splitlines()[0]  # type: ignore[attr-defined]
            assert told == line, name


def test_the_program_alone_shows_its_help() -> None:
    done = run_program()
    assert (done.status, done.err) == (0, "")
    assert done.out == run_here("--help").out
