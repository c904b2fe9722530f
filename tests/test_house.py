"""The rules of the house, read from the source: who may import whom, what stays pure, how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STDLIB = sys.stdlib_module_names
KNOWN_TRAINER = {  # no torch in any of them
    "trainer.code", "trainer.recipe", "trainer.spec", "trainer.devices", "trainer.footprint", "trainer.remote",
}  # fmt: skip
PURE_CORE = {"states", "evidence", "money", "decide", "prices", "interval", "estimate", "scaling", "market"}
PURE_NEIGHBOURS = {f"patron_core.{name}" for name in PURE_CORE} | {"patron_core.errors", "patron_core.executors.base"}
ALLOWED = {
    "notebooks": {"patron_core", "marimo", "altair", "polars", "pydantic"},
    "trainer": {"trainer", "torch", "numpy", "polars", "httpx", "tokenizers", "obstore"},
}
LAZY_ONLY = {
    "mlflow": {"patron_core/tracking.py"},
    "sky": {"patron_core/sky_catalog.py", "patron_core/skypilot_client.py"},
}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(module, at the top level) for every import of a file; `from a import b` counts as a and as a.b."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, id(node) in top
            for alias in node.names:
                yield f"{node.module}.{alias.name}", id(node) in top


def sources(folder: str) -> list[Path]:
    return sorted(p for p in (ROOT / folder).rglob("*.py") if "__marimo__" not in p.parts)


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_a_folder_imports_only_what_it_may(folder: str) -> None:
    for path in sources(folder):
        for module, _ in imports(path):
            root = module.split(".")[0]
            assert root in ALLOWED[folder] or root in STDLIB, f"{path.relative_to(ROOT)} imports {module}"


def test_the_core_knows_only_the_pure_part_of_the_trainer_and_no_heavy_package() -> None:
    for path in sources("patron_core"):
        for module, _ in imports(path):
            root = module.split(".")[0]
            assert root not in {"torch", "marimo", "notebooks"}, f"{path.relative_to(ROOT)} imports {module}"
            if root == "trainer":
                known = any(module == pure or module.startswith(pure + ".") for pure in KNOWN_TRAINER)
                assert known, f"{path.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize("package", sorted(LAZY_ONLY))
def test_heavy_packages_have_one_door_and_open_it_late(package: str) -> None:
    for path in sources("patron_core"):
        for module, at_top in imports(path):
            if module.split(".")[0] == package:
                assert str(path.relative_to(ROOT)) in LAZY_ONLY[package], f"{path} imports {package}"
                assert not at_top, f"{path.relative_to(ROOT)} imports {package} at import"


def test_pure_modules_do_no_input_or_output() -> None:
    impure = {"os", "pathlib", "subprocess", "time", "socket", "sqlite3", "sqlalchemy", "httpx", "random", "datetime"}
    for path in sources("patron_core"):
        name = path.relative_to(ROOT / "patron_core").parts[0].removesuffix(".py")
        if name not in PURE_CORE:
            continue
        for module, _ in imports(path):
            assert module.split(".")[0] not in impure, f"{path.relative_to(ROOT)} imports {module}"
            if module.startswith("patron_core."):
                known = any(module == pure or module.startswith(pure + ".") for pure in PURE_NEIGHBOURS)
                assert known, f"{path.relative_to(ROOT)} imports {module}"


def test_nothing_imports_a_notebook_and_no_file_shadows_a_package() -> None:
    shadows = {"mlflow", "sky", "torch", "marimo", "polars", "altair", "httpx", "alembic"}
    for folder in ("patron_core", "trainer", "notebooks"):
        for path in sources(folder):
            assert path.stem not in shadows, path
            assert not any(module.split(".")[0] == "notebooks" for module, _ in imports(path)), path


def test_files_are_short_enough_to_hold_in_the_head() -> None:
    long_ones = {"trainer/train.py", "trainer/loop.py"}
    for folder in ("patron_core", "trainer", "notebooks"):
        for path in sources(folder):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            limit = 450 if str(path.relative_to(ROOT)) in long_ones else 330
            assert lines <= limit, f"{path.relative_to(ROOT)} has {lines} lines"


def test_importing_the_core_loads_nothing_heavy() -> None:
    heavy = "torch mlflow marimo polars altair sqlalchemy alembic pydantic numpy sky"
    code = f"import sys, patron_core; print(*[m for m in {heavy.split()!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
