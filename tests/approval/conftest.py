"""One template a run, one running server a test, one browser a run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.approval.running import Running, Template, make_template


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    return make_template(tmp_path_factory.mktemp("template") / "home")


@pytest.fixture
def site(template: Template, tmp_path: Path) -> Iterator[Running]:
    with Running(template, tmp_path / "home") as running:
        yield running


@pytest.fixture(scope="module")
def standing_site(template: Template, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One running server for the tests of a file that change nothing for each other."""
    with Running(template, tmp_path_factory.mktemp("standing") / "home") as running:
        yield running


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
