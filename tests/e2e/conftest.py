"""One template and one sshd a run; a running plant a module where tests can share it, or one a test where they cannot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

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
