"""Help text shown in a README is what the program prints."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from math import ceil
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
PROGRAM = Path(sys.executable).with_name("wicketgate")
READMES = [TOP / "README.md", TOP / "systemd/README.md"]
FENCED = re.compile(r"^(`{3,})[^\n]*\n(.*?)^\1`*$", re.MULTILINE | re.DOTALL)
ASKED = re.compile(r"\$ (wicketgate(?: [a-z-]+)* --help)")


def shown(text: str) -> list[tuple[str, str]]:
    """Every command line that asks for help at the head of a fenced block, with the lines below it."""
    heads = [block[1].partition("\n")[::2] for block in FENCED.findall(text)]
    return [(asked[1], told) for head, told in heads if (asked := ASKED.fullmatch(head))]


BLOCKS = [one for path in READMES if path.exists() for one in shown(path.read_text())]


def test_the_readme_shows_the_programs_own_help() -> None:
    assert "wicketgate --help" in [command for command, _ in shown(READMES[0].read_text())]


@pytest.mark.parametrize(("command", "told"), BLOCKS, ids=[command for command, _ in BLOCKS])
def test_help_in_a_readme_is_what_the_program_prints(command: str, told: str) -> None:
    words = shlex.split(command)[1:]
    env = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run([PROGRAM, *words], capture_output=True, text=True, timeout=60, check=True, env=env)
    assert told == done.stdout


def test_a_block_is_found_with_all_its_lines_and_others_are_left_alone() -> None:
    text = "```console\n$ wicketgate asset add --help\nUsage\n\n  x\n```\n\n```\n$ wicketgate serve\n```\n"
    assert shown(text) == [("wicketgate asset add --help", "Usage\n\n  x\n")]


def paths(text: str) -> list[str]:
    """The paths of the tree that a page names: in backticks, or as pictures."""
    plain = FENCED.sub("", text)
    ticked = [one for one in re.findall(r"`([^`\s]+)`", plain) if re.fullmatch(r"[\w.][\w./-]*/[\w./-]*", one)]
    return ticked + re.findall(r"!\[[^\]]*\]\(([^)]+)\)", plain) + re.findall(r'<img src="([^"]+)"', plain)


def test_every_path_that_the_readme_names_is_there() -> None:
    named = paths(READMES[0].read_text())
    assert {"docs/architecture.md", "systemd/README.md", "docs/images/request-phone.png"} <= set(named)
    assert [one for one in named if not (TOP / one).exists()] == []


def test_a_path_is_found_in_backticks_and_in_pictures() -> None:
    text = '`docs/a.txt` `docs/b/` `/sessions` `wicketgate kill` ![x](c.png) <img src="d.png">\n```\n`e/f`\n```\n'
    assert paths(text) == ["docs/a.txt", "docs/b/", "c.png", "d.png"]


@pytest.mark.parametrize(("name", "width"), [("request-phone.png", ceil(390 * 1.25)), ("replay-desktop.png", 1280)])
def test_the_pictures_are_as_wide_as_a_phone_and_a_desktop(name: str, width: int) -> None:
    data = (TOP / "docs/images" / name).read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert (data[12:16], int.from_bytes(data[16:20])) == (b"IHDR", width)
