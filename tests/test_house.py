"""The walls of docs/architecture.md. Each is a function from sources to complaints; each is also shown a breach it must see.

When a wall moves, move it here in the same commit, with a note in docs/decisions.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

from broker.domain.people import Role
from broker.store import schema

TOP: Final = Path(__file__).parents[1]
ROOMS: Final = ("approval", "broker", "demo", "recorder")
# Who may import whom: one line, approval -> broker -> recorder; nothing imports demo but those who try it.
BELOW: Final[Mapping[str, frozenset[str]]] = {
    "recorder": frozenset({"recorder"}),
    "broker": frozenset({"broker", "recorder"}),
    "approval": frozenset({"approval", "broker", "recorder"}),
    "demo": frozenset(ROOMS),
    "benchmarks": frozenset({*ROOMS, "benchmarks"}),
    "tests": frozenset({*ROOMS, "benchmarks", "tests"}),
}
# Which library may be known where; tests and benchmarks may know all of them.
FENCES: Final[Mapping[str, tuple[str, ...]]] = {
    "asyncssh": ("broker/bastion/", "broker/signer/", "demo/"),
    "sqlalchemy": ("broker/store/",),
    "alembic": ("broker/store/",),
    "psycopg": ("broker/store/",),
    "sqlite3": ("broker/store/",),
    "fastapi": ("approval/",),
    "starlette": ("approval/",),
    "uvicorn": ("approval/",),
    "jinja2": ("approval/",),
    "pydantic": ("approval/", "broker/settings.py"),
    "pydantic_settings": ("broker/settings.py",),
    "typer": ("broker/cli/", "demo/"),
}
# What a pure module may know: nothing in here reads a file, a clock, a socket or the environment when it is called.
PURE_LIBRARIES: Final = frozenset(
    {"__future__", "collections", "contextlib", "dataclasses", "datetime", "decimal", "enum", "fnmatch", "functools"}
    | {"hashlib", "hmac", "ipaddress", "itertools", "json", "math", "operator", "re", "string", "typing", "unicodedata"}
)
IMPURE_CALLS: Final = frozenset({"open", "print", "input", "exec", "eval", "__import__", "breakpoint"})
CLOCKS: Final = re.compile(
    r"time\.(time|monotonic|perf_counter|process_time|thread_time|clock_gettime)(_ns)?|time\.(localtime|gmtime|ctime)"
    r"|datetime\.datetime\.(now|utcnow|today)|datetime\.date\.today"
)
ATTICS: Final = re.compile(r"(util|helper|common|core|misc|manager)s?")
NOT_USED: Final = frozenset({"User", "Ticket", "Target", "Job", "Manager", "Handler"})
LINES_MAX: Final = 400  # comfort ends at 300
FUNCTION_LINES_MAX: Final = 70  # comfort ends at 50
# Sleeping in a test is slow on a good day and wrong on a bad one: wait for the thing itself. File: why it must be here.
SLEEPS: Final[Mapping[str, str]] = {}
MACHINE_PATHS: Final = re.compile(
    "|".join(["/" + name + "/" for name in ("work", "root", "opt/wheels")] + [r"\.py" + "env"])
)
MIRRORS: Final = re.compile(
    r"(?i)(default-|extra-)?index[-_]url|find[-_]links|UV_(DEFAULT_)?INDEX|PIP_INDEX|npm_config_registry"
)

CITED: Final = re.compile(r"(?<![\w/:.-])[\w./-]*\w\.md\b")
RULE: Final = re.compile(r"\b(?:(?:PRE|AUT|CRT|CHN|AST|WEB|REC|TIM|FLT|SEC|SUP|LOG)-[0-9]+|E[0-9]{1,2})\b")
LAWS: Final = range(1, 11)

Sources = Mapping[str, str]
Wall = Callable[[Sources], list[str]]


@cache
def tree(text: str) -> ast.Module:
    return ast.parse(text)


def python(sources: Sources, *tops: str) -> Iterator[tuple[str, ast.Module]]:
    """The Python files under these folders."""
    for path, text in sources.items():
        if path.endswith(".py") and path.split("/")[0] in tops:
            yield path, tree(text)


def imported(module: ast.AST) -> Iterator[str]:
    """Every dotted name that is imported anywhere in it, by statement or by a string."""
    for node in ast.walk(module):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=str(source), names=names, level=0):
                yield from (f"{source}.{name.name}" for name in names)
            case ast.Call(func=func, args=[ast.Constant(value=str(source)), *_]) if ast.unparse(func).endswith(
                ("import_module", "run_module", "__import__")
            ):
                yield source


def calls_by_full_name(module: ast.Module) -> Iterator[tuple[str, int]]:
    """Every dotted name used, with the imports' short names spelt out: `from time import time` and `import time as t` too."""
    long: dict[str, str] = {}
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            long |= {name.asname or name.name: name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            long |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute | ast.Name):
            first, dot, rest = ast.unparse(node).partition(".")
            yield long.get(first, first) + dot + rest, node.lineno


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """What runs, or is read by a type checker, when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from outside_functions(child)


def imports_point_down(sources: Sources) -> list[str]:
    return [
        f"{path} imports {name}"
        for path, module in python(sources, *BELOW)
        for name in imported(module)
        if (top := name.split(".")[0]) in BELOW and top not in BELOW[path.split("/")[0]]
    ]


def libraries_stay_behind_their_fence(sources: Sources) -> list[str]:
    return [
        f"{path} imports {name}"
        for path, module in python(sources, *ROOMS)
        for name in imported(module)
        if not path.startswith(FENCES.get(name.split(".")[0], ""))
    ]


def imports_stay_absolute(sources: Sources) -> list[str]:
    return [
        f"{path}:{node.lineno} imports relatively"
        for path, module in python(sources, *BELOW)
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom) and node.level
    ]


def no_modules_import_each_other(sources: Sources) -> list[str]:
    """Cycles at import time, imports for types included."""
    modules = {module_name(path): module for path, module in python(sources, *BELOW)}
    graph = {}
    for name, module in modules.items():
        top = ast.Module(
            [node for node in outside_functions(module) if isinstance(node, ast.Import | ast.ImportFrom)], []
        )
        wanted = set(imported(top))
        # `from a.b import c`: the module a.b.c where there is one, else a.b.
        graph[name] = {one if one in modules else one.rpartition(".")[0] for one in wanted} & modules.keys() - {name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [" <- ".join(error.args[1])]
    return []


def the_domain_is_pure(sources: Sources) -> list[str]:
    domain = {path: text for path, text in sources.items() if path.startswith("broker/domain/")}
    found = []
    for path, module in python(domain, "broker"):
        foreign = (name for name in imported(module) if name.split(".")[0] not in PURE_LIBRARIES)
        found += [f"{path} imports {name}" for name in foreign if not name.startswith("broker.domain.")]
        found += [f"{path}:{line} calls {name}" for name, line in calls_by_full_name(module) if name in IMPURE_CALLS]
    return found


def only_one_room_reads_clocks(sources: Sources) -> list[str]:
    found = []
    for path, module in python(sources, *ROOMS):
        if path == "broker/clock.py":
            continue
        found += [f"{path}:{line} reads {name}" for name, line in calls_by_full_name(module) if CLOCKS.fullmatch(name)]
        for node in ast.walk(module):
            if isinstance(node, ast.Call) and re.search(r"loop(\(\))?\.time\(\)$", ast.unparse(node)):
                found.append(f"{path}:{node.lineno} reads the event loop's clock")
    return found


def only_policy_makes_admissions(sources: Sources) -> list[str]:
    return [
        f"{path}:{node.lineno} makes an Admission"
        for path, module in python(sources, *ROOMS)
        if path != "broker/domain/policy.py"
        for node in ast.walk(module)
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Admission"
    ] + [
        f"{path} takes the key to Admission"
        for path, text in sources.items()
        if path.split("/")[0] in ROOMS and path != "broker/domain/policy.py" and re.search(r"\b_ADMIT\b", text)
    ]


def no_room_is_an_attic(sources: Sources) -> list[str]:
    return [
        f"{path}: {part} names nothing"
        for path, _ in python(sources, *BELOW)
        for part in path.removesuffix(".py").split("/")
        if ATTICS.fullmatch(part)
    ]


def no_class_uses_a_word_we_do_not_use(sources: Sources) -> list[str]:
    return [
        f"{path}:{node.lineno} class {node.name}"
        for path, module in python(sources, *ROOMS)
        for node in ast.walk(module)
        if isinstance(node, ast.ClassDef) and NOT_USED & set(re.findall(r"[A-Z][a-z]+", node.name))
    ]


def no_room_is_crowded(sources: Sources) -> list[str]:
    found = []
    for path, module in python(sources, *ROOMS, "benchmarks"):
        if (lines := len(sources[path].splitlines())) > LINES_MAX:
            found.append(f"{path} has {lines} lines, at most {LINES_MAX}")
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    found.append(f"{path}:{node.lineno} {node.name} has {lines} lines, at most {FUNCTION_LINES_MAX}")
    return found


def no_test_sleeps(sources: Sources) -> list[str]:
    asleep = {
        path: line
        for path, module in python(sources, "tests")
        for name, line in calls_by_full_name(module)
        if name == "time.sleep"
    }
    return [f"{path}:{line} sleeps" for path, line in asleep.items() if path not in SLEEPS]


def nothing_names_a_machine_or_a_mirror(sources: Sources) -> list[str]:
    return [
        f"{path}:{number} names {found[0]}"
        for path, text in sources.items()
        for number, line in enumerate(text.splitlines(), 1)
        if path != "tests/test_house.py" and (found := MACHINE_PATHS.search(line) or MIRRORS.search(line))
    ]


def every_page_and_rule_that_is_cited_is_there(sources: Sources) -> list[str]:
    """Pages by their path, beside the file that cites them, or by their name in docs/; rules in docs/rules.md."""
    rules = set(RULE.findall(sources.get("docs/rules.md", "")))
    found = []
    for path, text in sources.items():
        if path == "tests/test_house.py":
            continue
        for name in CITED.findall(text):
            page = name.removeprefix("/")
            if not {page, f"docs/{page}", f"{path.rpartition('/')[0]}/{page}"} & sources.keys():
                found.append(f"{path} cites {name}")
        found += [f"{path} names {told}" for told in re.findall(r"\bissue [A-E]\b", text)]
        if path.split("/")[0] in (*ROOMS, "systemd"):
            found += [f"{path} cites {rule}" for rule in RULE.findall(text) if rule not in rules]
    return found


def every_law_is_proven_by_name(sources: Sources) -> list[str]:
    """A test's name or docstring says `law N`; several are `laws 1 and 2` or `Laws 2, 3, 6`."""
    named: set[int] = set()
    for _, module in python({path: text for path, text in sources.items() if "/test_" in path}, "tests"):
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                told = f"{node.name.replace('_', ' ')}. {ast.get_docstring(node) or ''}"
                for several in re.findall(r"(?i)\blaws? (\d+(?:(?:,| and| to) ?\d+)*)\b", told):
                    named |= {int(one) for one in re.findall(r"\d+", several)}
    return [f"no test proves law {law} by name" for law in LAWS if law not in named]


WALLS: Final[tuple[Wall, ...]] = (
    imports_point_down,
    libraries_stay_behind_their_fence,
    imports_stay_absolute,
    no_modules_import_each_other,
    the_domain_is_pure,
    only_one_room_reads_clocks,
    only_policy_makes_admissions,
    no_room_is_an_attic,
    no_class_uses_a_word_we_do_not_use,
    no_room_is_crowded,
    no_test_sleeps,
    nothing_names_a_machine_or_a_mirror,
    every_page_and_rule_that_is_cited_is_there,
    every_law_is_proven_by_name,
)
LONG_FUNCTION = "def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX
BREACHES: Final[tuple[tuple[Wall, Sources], ...]] = (
    (imports_point_down, {"recorder/a.py": "from broker.domain.ids import GrantId"}),
    (imports_point_down, {"broker/a.py": "def f():\n    import approval.app"}),
    (imports_point_down, {"broker/a.py": "import importlib\nimportlib.import_module('demo.story')"}),
    (imports_point_down, {"approval/a.py": "from demo import story"}),
    (imports_point_down, {"demo/a.py": "from tests.domain import makers"}),
    (libraries_stay_behind_their_fence, {"broker/gate.py": "from asyncssh import connect"}),
    (libraries_stay_behind_their_fence, {"approval/a.py": "import sqlalchemy as sa"}),
    (libraries_stay_behind_their_fence, {"broker/desk.py": "from pydantic import BaseModel"}),
    (imports_stay_absolute, {"broker/a.py": "from . import b"}),
    (no_modules_import_each_other, {"broker/a.py": "from broker import b", "broker/b.py": "from broker.a import x"}),
    (
        no_modules_import_each_other,
        {
            "broker/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from broker.b import B",
            "broker/b.py": "import broker.c",
            "broker/c.py": "from broker.a import A",
        },
    ),
    (the_domain_is_pure, {"broker/domain/a.py": "import os"}),
    (the_domain_is_pure, {"broker/domain/a.py": "from broker.settings import Home"}),
    (the_domain_is_pure, {"broker/domain/a.py": "def f():\n    return open('x')"}),
    (only_one_room_reads_clocks, {"broker/a.py": "import time\nnow = time.monotonic_ns()"}),
    (only_one_room_reads_clocks, {"approval/a.py": "from datetime import datetime, UTC\nnow = datetime.now(UTC)"}),
    (only_one_room_reads_clocks, {"demo/a.py": "from time import time as t\nnow = t()"}),
    (only_one_room_reads_clocks, {"recorder/a.py": "import datetime as d\nclock = d.datetime.now"}),
    (only_one_room_reads_clocks, {"broker/a.py": "import asyncio\nnow = asyncio.get_running_loop().time()"}),
    (only_policy_makes_admissions, {"broker/gate.py": "from broker.domain import policy\npolicy.Admission()"}),
    (only_policy_makes_admissions, {"broker/gate.py": "from broker.domain.policy import _ADMIT"}),
    (no_room_is_an_attic, {"broker/utils.py": ""}),
    (no_room_is_an_attic, {"approval/core/pages.py": ""}),
    (no_class_uses_a_word_we_do_not_use, {"broker/a.py": "class SessionManager: ..."}),
    (no_room_is_crowded, {"broker/a.py": "x = 1\n" * (LINES_MAX + 1)}),
    (no_room_is_crowded, {"broker/a.py": LONG_FUNCTION}),
    (no_test_sleeps, {"tests/test_a.py": "import time\ntime.sleep(1)"}),
    (no_test_sleeps, {"tests/test_a.py": "from time import sleep as rest\nrest(1)"}),
    (nothing_names_a_machine_or_a_mirror, {"docs/a.md": "see /" + "work/notes"}),
    (every_page_and_rule_that_is_cited_is_there, {"broker/a.py": "# see gone.md"}),
    (every_page_and_rule_that_is_cited_is_there, {"broker/a.py": "# docs/gone.md", "docs/b.md": ""}),
    (every_page_and_rule_that_is_cited_is_there, {"broker/a.py": "# Source: issue A 5"}),
    (every_page_and_rule_that_is_cited_is_there, {"broker/a.py": "# AUT-11", "docs/rules.md": "AUT-1"}),
    (every_law_is_proven_by_name, {"tests/test_a.py": "def test_law_1_x(): ...\ndef test_laws_2_and_3_y(): ..."}),
    (nothing_names_a_machine_or_a_mirror, {"Makefile": "pip install --index" + "-url https://mirror.example x"}),
)
# Each word of docs/architecture.md and the one thing in the code that it names: a class, a role, a table or an act.
WORDS: Final[Mapping[str, str]] = {
    "Vendor": "broker.domain.inventory:Vendor",
    "Engineer": "broker.domain.people:Person",
    "Owner": "role",
    "Operator": "role",
    "Investigator": "role",
    "Admin": "role",
    "Auditor": "role",
    "Site": "broker.domain.inventory:Site",
    "Asset": "broker.domain.inventory:Asset",
    "Zone": "table",
    "Commissioning window": "broker.domain.window:CommissioningWindow",
    "Access request": "broker.domain.request:AccessRequest",
    "Terms": "broker.domain.grant:Terms",
    "Approval": "table",
    "Grant": "broker.domain.grant:Grant",
    "Capability": "broker.domain.capability:Capability",
    "Certificate": "table",
    "Facts": "broker.domain.policy:Facts",
    "Admission": "broker.domain.policy:Admission",
    "Refusal": "broker.domain.policy:Refusal",
    "reason": "broker.domain.policy:Reason",
    "Session": "broker.domain.session:Session",
    "Channel": "table",
    "Recording": "broker.store.recordings:Recording",
    "streams": "table",
    "Ledger": "table",
    "Kill": "broker.desk:kill",
    "Suspension": "broker.domain.suspension:Suspension",
    "Freeze": "broker.desk:freeze",
}


@pytest.fixture(scope="module")
def sources() -> Sources:
    """Every text file that git knows or would take, by its path."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    told = subprocess.run(command, cwd=TOP, check=True, capture_output=True, text=True, timeout=60).stdout
    found = {}
    for name in sorted(filter(None, told.split("\0"))):
        data = (TOP / name).read_bytes() if (TOP / name).is_file() else b"\0"
        if b"\0" not in data:
            found[name] = data.decode("utf-8", "replace")
    return found


def bold_words(page: str) -> frozenset[str]:
    """The words that a page's section `## Words` sets in bold."""
    section = page.partition("\n## Words\n")[2].partition("\n## ")[0]
    return frozenset(" ".join(word.split()) for word in re.findall(r"\*\*(.+?)\*\*", section, re.DOTALL))


def is_there(word: str, kind: str) -> bool:
    """Whether the code has what a word names."""
    if kind == "role":
        return word.upper() in Role.__members__
    if kind == "table":
        return word.lower().removesuffix("s") in schema.site.metadata.tables
    module, _, name = kind.partition(":")
    return hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize("wall", WALLS, ids=lambda wall: wall.__name__)
def test_the_walls_stand(wall: Wall, sources: Sources) -> None:
    assert wall(sources) == []


@pytest.mark.parametrize(("wall", "breach"), BREACHES, ids=lambda one: getattr(one, "__name__", None))
def test_a_breach_would_be_seen(wall: Wall, breach: Sources) -> None:
    assert len(wall(breach)) >= 1


def test_every_wall_is_shown_a_breach() -> None:
    assert {wall for wall, _ in BREACHES} == set(WALLS)


def test_the_walls_look_at_all_the_rooms(sources: Sources) -> None:
    assert {path.split("/")[0] for path, _ in python(sources, *BELOW)} == set(BELOW)
    assert {path for path in SLEEPS if path not in sources} == set()


def test_the_page_and_the_code_have_the_same_words(sources: Sources) -> None:
    assert bold_words(sources["docs/architecture.md"]) == WORDS.keys()


@pytest.mark.parametrize(("word", "kind"), WORDS.items(), ids=WORDS.keys())
def test_each_word_names_something_in_the_code(word: str, kind: str) -> None:
    assert is_there(word, kind)


def test_a_word_without_its_thing_would_be_seen() -> None:
    assert bold_words("# x\n\n## Words\n**Access\nrequest** what. **Gone** x.\n\n## Next\n**No** x") == {
        "Access request",
        "Gone",
    }
    assert not is_there("Gone", "broker.domain.policy:Gone")
    assert not is_there("Gone", "table")
    assert not is_there("Gone", "role")
