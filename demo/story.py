"""The story: every scene through the real doors, each promise looked at; at the end a count that is the exit status."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from typing import Final

from broker.domain.errors import BrokerError
from demo.deployment import Deployment
from demo.scenes import asking, entering, proving
from demo.stage import Missed, Stage

Scene = tuple[str, Callable[[Stage], str]]
SCENES: Final[Sequence[Scene]] = (
    ("A key that nobody enrolled opens nothing", asking.strange_key),
    ("A wrong code is refused, the right one opens the console", asking.wrong_code),
    ("A code is good once, over all doors", asking.spent_code),
    ("Asked: quarantine is refused with its reason, the rest is pending", asking.ask),
    ("Nobody approves what they asked for", asking.approve_own),
    ("The owner reads it on the web and grants less, never more", asking.narrow),
    ("The certificate says what was granted and nothing else", asking.collect),
    ("A command's bytes pass unchanged, both ways", entering.run_exec),
    ("A terminal session is typed, resized and recorded", entering.use_terminal),
    ("What was not granted is refused with the reason", entering.not_granted),
    ("A hazard asset opens only after two owners", asking.two_owners),
    ("The owner ends a live session on the web; no way back in", entering.kill),
    ("A grant's end ends its session within a second", entering.run_out),
    ("Replay and export show what was on the screen", entering.replay),
    ("The investigator looks, and the look is kept", proving.look),
    ("Every recording verifies", proving.verify),
    ("One flipped byte is found", proving.flip),
    ("The ledger is whole", proving.ledger),
)


def play(deployment: Deployment) -> int:
    """Play every scene and say how each went; gives 0 when all did as promised, else 1. Without its program it ends there."""
    stage = Stage(deployment)
    good = 0
    for number, (title, scene) in enumerate(SCENES, 1):
        begun_us = deployment.clock.monotonic_us()
        try:
            told, went_well = scene(stage), True
        except Missed as missed:
            told, went_well = str(missed), False
        except (BrokerError, OSError, ValueError, LookupError, subprocess.SubprocessError, RuntimeError) as error:
            told, went_well = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", False
        gone = deployment.serve.poll() is not None
        if gone:
            told, went_well = deployment.died(), False
        good += went_well
        took_s = (deployment.clock.monotonic_us() - begun_us) / 1e6
        print(f"{number:>2} {'ok  ' if went_well else 'FAIL'} {took_s:>5.1f} s  {title}", flush=True)
        print(f"                 {told}", flush=True)
        if gone:
            break
    print(f"story: {len(SCENES)} scenes, {good} ok", flush=True)
    return 0 if good == len(SCENES) else 1
