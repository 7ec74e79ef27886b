"""One template a run, one running server a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

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
