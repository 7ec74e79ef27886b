"""Everybody's code generator in one drawer, for a demo that must go on without a phone."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import pyotp

from broker.clock import Clock
from broker.factors import STEP_S
from broker.store import credentials, people
from broker.store.db import Database

LATE_S: Final = 8.0
"""With less than this left of a step, the code of the step before it may be too old when it is judged."""


@dataclass(frozen=True, slots=True)
class Face:
    """What a phone shows. code: one not used yet, None while there is none; seconds: how long it is good, or to wait."""

    code: str | None
    seconds: float


class Phones:
    """The code generators by handle. A code is good once, over all doors: the database says which ones are gone."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._uris: dict[str, str] = {}

    def add(self, handle: str, uri: str) -> None:
        """Take in a provisioning URI."""
        self._uris[handle] = uri

    def uri(self, handle: str) -> str:
        return self._uris[handle]

    def secret(self, handle: str) -> str:
        """The seed as a person types it into an app."""
        return self._generator(handle).secret

    def look(self, handle: str, *, back: int = 0) -> Face:
        """The next code of theirs that a door takes. back: 1 to begin with the step before this one, which is good too."""
        now_s = self._clock.now().timestamp()
        now_step = int(now_s) // STEP_S
        step = max(self._last_step(handle) + 1, now_step - back)
        if step > now_step + 1:
            return Face(None, (step - 1) * STEP_S - now_s)
        return Face(self._generator(handle).generate_otp(step), (step + 2) * STEP_S - now_s)

    def take(self, handle: str) -> str:
        """A code to use at once; waits for one when three were used within as many steps."""
        while True:
            face = self.look(handle, back=1)
            if face.code is not None and face.seconds < LATE_S:
                face = self.look(handle)
            if face.code is not None:
                return face.code
            time.sleep(min(face.seconds + 0.1, STEP_S))

    def wrong(self, handle: str) -> str:
        """Six digits that none of their codes around now has."""
        now_step = int(self._clock.now().timestamp()) // STEP_S
        near = {self._generator(handle).generate_otp(now_step + offset) for offset in range(-3, 6)}
        return next(text for number in range(1_000) if (text := f"{number:06}") not in near)

    def _generator(self, handle: str) -> pyotp.TOTP:
        found = pyotp.parse_uri(self._uris[handle])
        assert isinstance(found, pyotp.TOTP)
        return found

    def _last_step(self, handle: str) -> int:
        with self._db.read() as tx:
            seed = credentials.load_seed(tx, people.require(tx, handle).id)
        return 0 if seed is None else seed.last_step
