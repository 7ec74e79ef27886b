from __future__ import annotations

from hypothesis import settings

# A deadline measures the machine: beside other work an example of a millisecond may well take half a second.
settings.register_profile("house", deadline=None)
settings.load_profile("house")
