"""What every folder of tests shares."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from hypothesis import settings
from playwright.sync_api import Browser, sync_playwright

# A deadline measures the machine: beside other work an example of a millisecond may well take half a second.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's chromium; nothing is downloaded, nothing is asked of the network.

    One a module: while Playwright runs, no other event loop can be run in this process.
    """
    chromium = shutil.which("chromium")
    assert chromium is not None, "install chromium"
    quiet = ["--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--no-first-run", *quiet]
        )
        yield made
        made.close()
