"""One template and one sshd a run; a running plant a module where tests can share it, or one a test where they cannot."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.e2e.site import Plant, Template, make_template


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in here goes through the real clients."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("e2e")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Template]:
    with make_template(tmp_path_factory.mktemp("site")) as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's chromium, asking nothing of the network; not longer than a module, for no async test can run beside it."""
    chromium = shutil.which("chromium")
    assert chromium is not None, "install chromium"
    quiet = ["--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--no-first-run", *quiet]
        )
        yield made
        made.close()


@pytest.fixture
def plant(template: Template) -> Iterator[Plant]:
    with Plant(template) as running:
        yield running


@pytest.fixture(scope="module")
def shared(template: Template) -> Iterator[Plant]:
    """A plant whose engineer has a grant for the box and a certificate collected; tests leave it as they find it."""
    with Plant(template) as running:
        running.grant()
        running.collect()
        yield running
