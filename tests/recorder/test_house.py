"""E11, and the walls of the recorder's own room."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "recorder").rglob("*.py"))
CLOCKS = {"time", "datetime.now", "datetime.utcnow", "datetime.today"}
PURE = {"format", "events", "index", "clean", "frames"}
GROWTH_MAX_BYTES = 12 << 20


def test_e11_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "tests.recorder.memory_child", str(tmp_path), "256"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    shutil.rmtree(tmp_path / "long")
    assert int(told.stdout) < GROWTH_MAX_BYTES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_recorder_reads_no_clock_and_knows_nothing_of_who_uses_it(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert f"{node.value.id}.{node.attr}" not in CLOCKS
    assert not imported & {"time", "broker", "approval", "demo", "tests"}
    if path.stem in PURE:
        assert not imported & {"os", "io", "pathlib", "logging", "threading", "subprocess"}
