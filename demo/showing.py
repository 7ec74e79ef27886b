"""What the demo says in the terminal: pictures of codes, where everything is, the commands to paste."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

import segno

from demo import kestrel
from demo.deployment import Deployment
from demo.kestrel import Figure
from demo.phones import Phones

_QUIET: Final = 2  # modules of white around a picture: half of what the standard asks, and phones take it
_GAP: Final = 3
# Black on white whatever the terminal's theme is: some phones do not read an inverted picture.
_PAPER, _PLAIN = "\x1b[38;5;231;48;5;16m", "\x1b[0m"


def pictures(phones: Phones, *, columns: int, coloured: bool) -> str:
    """The leads' provisioning URIs as QR codes with their seeds, as many beside each other as the terminal is wide."""
    blocks = [_picture(phones, figure, coloured=coloured) for figure in kestrel.LEADS]
    width = max(width for width, _ in blocks)
    beside = max(1, (columns + _GAP) // (width + _GAP))
    rows = [blocks[at : at + beside] for at in range(0, len(blocks), beside)]
    return "\n\n".join(_side_by_side([lines for _, lines in row]) for row in rows)


def _picture(phones: Phones, figure: Figure, *, coloured: bool) -> tuple[int, list[str]]:
    drawn = io.StringIO()
    segno.make(phones.uri(figure.handle), error="l", micro=False).terminal(drawn, border=_QUIET, compact=True)
    lines = drawn.getvalue().splitlines()
    width = len(lines[0])
    shown = [f"{_PAPER}{line}{_PLAIN}" if coloured else line for line in lines]
    captions = [figure.handle, f"secret {phones.secret(figure.handle)}"]
    return width, shown + [caption.ljust(width) for caption in captions]


def _side_by_side(blocks: Sequence[Sequence[str]]) -> str:
    # Pictures of longer handles may be taller; the captions stay under each.
    tallest = max(len(block) for block in blocks)
    filled = [[*block, *[""] * (tallest - len(block))] for block in blocks]
    return "\n".join((" " * _GAP).join(parts).rstrip() for parts in zip(*filled, strict=True))


def welcome(deployment: Deployment) -> str:
    """Where everything is and what to do: a page that a terminal of 80 columns and 24 lines shows whole."""
    seoyeon, owner = kestrel.SEOYEON.handle, kestrel.MARGUERITE.handle
    ssh = f"ssh -F {deployment.ssh_config(seoyeon)}"
    cast = "\n".join(f"  {figure.handle:<20} {figure.is_a}: {figure.does}" for figure in kestrel.LEADS)
    return f"""\
Kestrel Flat runs on this machine; its plant, firms and people are invented.
  web  {deployment.web}/      password of all: {kestrel.PASSWORD}
  ssh  {deployment.ssh}
{cast}

1. Ask, as {seoyeon}:
{ssh} gate \\
  'request {kestrel.BMS_21.login} --for 2h --reason "cell 4 drifts"'

2. Say yes, as {owner}: {deployment.web}/

3. Collect the certificate, and go in (help, show cells, top, exit):
{ssh} gate \\
  cert > {deployment.certificate(seoyeon)}
{ssh} \\
  {kestrel.BMS_21.login}@gate

4. End it, as {owner}, under /sessions;
   see it again, as {kestrel.NADIA.handle}, under /recordings

Enter: everybody's code now, for whoever has no phone.  ^C: end."""


def codes(phones: Phones) -> str:
    """A code of each person that is good now, and not used yet."""
    lines = []
    for figure in kestrel.CAST:
        face = phones.look(figure.handle)
        seconds = max(1, int(face.seconds))
        what = f"{face.code}  good for {seconds} s" if face.code else f"used; the next one in {seconds} s"
        lines.append(f"  {figure.handle:<20} {what:<26} {figure.is_a}")
    return "\n".join(lines)
