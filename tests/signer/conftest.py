from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.signer.makers import Deployment, make_deployment


@pytest.fixture
def place() -> Iterator[Deployment]:
    """A deployment of its own; its path is short, for a Unix socket's may not be long, and open, for a foreign uid to try."""
    path = Path(tempfile.mkdtemp(prefix="wg-"))
    path.chmod(0o755)
    made = make_deployment(path / "home")
    yield made
    made.db.close()
    shutil.rmtree(path)
