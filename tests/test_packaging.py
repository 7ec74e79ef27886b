"""What is shipped: the wheel holds all that runs, the lock names public addresses only, vendored files are the ones listed."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
PACKAGES = ("approval", "broker", "demo", "recorder")
VENDOR = TOP / "approval" / "static" / "vendor"
PUBLIC = ("https://pypi.org/", "https://files.pythonhosted.org/")
EXTRAS = ("psycopg", "psycopg_binary", "uvloop")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as it would be shipped, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=TOP, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


def names(wheel: Path) -> frozenset[str]:
    with zipfile.ZipFile(wheel) as archive:
        return frozenset(archive.namelist())


def kept_files() -> frozenset[str]:
    """Every file of the packages that git knows or would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *PACKAGES]
    told = subprocess.run(command, cwd=TOP, check=True, capture_output=True, text=True, timeout=60).stdout
    return frozenset(line for line in told.splitlines() if (TOP / line).is_file())


def foreign_addresses(lock: str) -> frozenset[str]:
    """Addresses in a lock file that are not the public index's."""
    return frozenset(one for one in re.findall(r"[a-z+]+://[^\"\s]+", lock) if not one.startswith(PUBLIC))


def wrong_files(folder: Path, unlisted: Iterable[str] = ("SHA256SUMS", "renew.sh")) -> list[str]:
    """What SHA256SUMS and the files of a folder do not agree about."""
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).as_posix() not in unlisted
    }
    return sorted(name for name in listed.keys() | found.keys() if listed.get(name) != found.get(name))


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    assert kept_files() - names(wheel) == frozenset()


@pytest.mark.parametrize("package", PACKAGES)
def test_the_wheel_tells_that_it_is_typed(wheel: Path, package: str) -> None:
    assert f"{package}/py.typed" in names(wheel)


def test_the_wheel_holds_migrations_pages_and_their_assets(wheel: Path) -> None:
    inside = names(wheel)
    assert any(re.fullmatch(r"broker/store/migrations/versions/\d+_\w+\.py", one) for one in inside)
    assert "approval/static/vendor/asciinema-player.min.js" in inside
    if any((TOP / "approval" / "templates").rglob("*.html")):
        assert any(one.startswith("approval/templates/") for one in inside)


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    tops = {one.split("/")[0] for one in names(wheel)}
    assert {one for one in tops if not one.endswith(".dist-info")} == set(PACKAGES)


def test_the_wheel_brings_the_program_and_its_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        told = {name: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name}
    (points,) = (text for name, text in told.items() if name.endswith("/entry_points.txt"))
    assert points.split() == ["[console_scripts]", "wicketgate", "=", "broker.cli:main"]
    assert any(name.endswith("/licenses/LICENSE") for name in told)


def test_what_is_installed_from_the_wheel_imports_on_its_own(wheel: Path, tmp_path: Path) -> None:
    """Not the tree: the files of the wheel, in a folder of their own, with the tree's links out of sight."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path[:] = [p for p in sys.path if p != {str(TOP)!r}]; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "import broker.store.migrate, recorder.writer, approval, demo\n"
        "print(broker.store.migrate.newest(), broker.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    newest, where = done.stdout.split()
    assert newest != "None"
    assert where.startswith(str(tmp_path))


def test_the_program_of_the_wheel_says_what_it_can_do(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); sys.argv = ['wicketgate', '--help']\n"
        "from broker.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert {"init", "serve", "approve", "verify", "demo"} <= set(done.stdout.split())


def test_every_module_imports_without_the_extras() -> None:
    code = (
        "import importlib, pkgutil, sys\n"
        f"sys.modules.update(dict.fromkeys({EXTRAS!r}))\n"  # None there makes an import fail as if it were not installed
        f"for top in {PACKAGES!r}:\n"
        "    for one in pkgutil.walk_packages(importlib.import_module(top).__path__, top + '.'):\n"
        "        if not one.name.endswith('__main__') and '.versions.' not in one.name: importlib.import_module(one.name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_lock_names_the_public_index_only() -> None:
    lock = (TOP / "uv.lock").read_text()
    assert lock.count(PUBLIC[1]) > 100
    assert foreign_addresses(lock) == frozenset()


def test_a_mirror_in_the_lock_would_be_seen() -> None:
    assert foreign_addresses('registry = "https://mirror.example/simple"') == {"https://mirror.example/simple"}
    assert foreign_addresses('url = "https://pypi.org.example/simple"') == {"https://pypi.org.example/simple"}


def test_the_vendored_files_are_the_ones_listed_with_their_licence() -> None:
    assert wrong_files(VENDOR) == []
    assert "Apache License" in (VENDOR / "LICENSES").read_text()


def test_a_changed_or_unlisted_vendored_file_would_be_seen(tmp_path: Path) -> None:
    for name in ("a.js", "b.js"):
        (tmp_path / name).write_text(name)
    (tmp_path / "SHA256SUMS").write_text(f"{hashlib.sha256(b'other').hexdigest()}  a.js\n{'0' * 64}  gone.js\n")
    assert wrong_files(tmp_path) == ["a.js", "b.js", "gone.js"]
