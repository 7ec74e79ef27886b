"""One template a run; a copy of it a test, or a module where the tests leave it as they find it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.deployment import Deployment, Template, make_template


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def deployment(template: Template) -> Iterator[Deployment]:
    made = Deployment(template)
    yield made
    made.remove()


@pytest.fixture(scope="module")
def shared(template: Template) -> Iterator[Deployment]:
    made = Deployment(template)
    yield made
    made.remove()
