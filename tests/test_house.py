"""The rules of the house, read from the source: who may import whom, what stays pure, how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.contract.code import NOT_HASHED, hashed_sources

ROOT = Path(__file__).parents[1]
STDLIB = sys.stdlib_module_names
CORE_TOP = {"__init__", "errors", "money", "interval", "settings", "states", "prices"}
PURE_CORE = {
    "states", "money", "prices", "interval", "estimate", "scaling", "market", "lifecycle/decide", "lifecycle/evidence",
    "lifecycle/verdict", "lifecycle/deadline", "lifecycle/holds", "workloads/forecast", "workloads/mlproject",
    "workloads/nanochat",
}  # fmt: skip
PURE_NEIGHBOURS = {f"patron_core.{name.replace('/', '.')}" for name in PURE_CORE} | {
    "patron_core.errors",
    "patron_core.executors.base",
}
ALLOWED = {
    "notebooks": {"patron_core", "marimo", "altair", "polars", "pydantic"},
    "trainer": {"trainer", "torch", "numpy", "polars", "httpx", "tokenizers", "tiktoken", "obstore", "triton", "yaml"},
}
LAZY_ONLY = {
    "mlflow": {"patron_core/mirror/tracking.py", "patron_core/mirror/tracker.py"},
    "marimo": {"patron_core/server/apps.py"},
    "sky": {f"patron_core/executors/sky_worker/{name}.py" for name in ("__main__", "catalog", "jobs", "site")},
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


def _for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def sources(folder: str) -> list[Path]:
    """Without the examples of foreign code, which are code of others as far as anybody here knows."""
    return sorted(p for p in (ROOT / folder).rglob("*.py") if not {"__marimo__", "examples"} & set(p.parts))


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_a_folder_imports_only_what_it_may(folder: str) -> None:
    for path in sources(folder):
        for module, _ in imports(path):
            root = module.split(".")[0]
            assert root in ALLOWED[folder] or root in STDLIB, f"{path.relative_to(ROOT)} imports {module}"


def test_notebooks_know_only_verbs_and_ui_of_the_core() -> None:
    for path in sources("notebooks"):
        for module, _ in imports(path):
            if module.startswith("patron_core.") and module not in ("patron_core.verbs", "patron_core.ui"):
                assert module.startswith("patron_core.ui."), f"{path.relative_to(ROOT)} imports {module}"


def test_only_what_everybody_uses_lies_at_the_top_of_the_core() -> None:
    assert {path.stem for path in (ROOT / "patron_core").glob("*.py")} == CORE_TOP


def test_the_contract_knows_nothing_of_the_rest_of_the_trainer() -> None:
    for path in sources("trainer/contract"):
        for module, at_top in imports(path):
            root = module.split(".")[0]
            assert root not in {"torch", "polars", "numpy"}, f"{path.relative_to(ROOT)} imports {module}"
            assert root != "trainer" or module == "trainer" or module.startswith("trainer.contract"), f"{path} {module}"
            assert root not in {"obstore", "yaml"} or not at_top, f"{path.relative_to(ROOT)} imports {module} at import"


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def needs(path: Path, files: set[str]) -> set[str]:
    """The files that run when this one is imported; `from package import file` needs the file, not its siblings."""
    found: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    idle = {id(n) for node in tree.body if _for_types(node) for n in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in idle:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner if inner <= files else {node.module, *inner}
    return found & files


def test_no_file_imports_itself_through_others() -> None:
    """Imports for type checking alone do not count: they never run."""
    files = {module_of(path): path for folder in ("patron_core", "trainer") for path in sources(folder)}
    graph = {name: needs(path, set(files)) - {name} for name, path in files.items()}
    done: set[str] = set()

    def walk(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name in done:
            return
        for other in sorted(graph[name]):
            walk(other, (*above, name))
        done.add(name)

    for name in graph:
        walk(name, ())


def test_the_core_knows_only_the_contract_of_the_trainer_and_no_heavy_package() -> None:
    for path in sources("patron_core"):
        for module, _ in imports(path):
            root = module.split(".")[0]
            assert root not in {"torch", "notebooks"}, f"{path.relative_to(ROOT)} imports {module}"
            if root == "trainer":
                assert module.startswith("trainer.contract"), f"{path.relative_to(ROOT)} imports {module}"


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
        inner = path.relative_to(ROOT / "patron_core").with_suffix("")
        if inner.parts[0] not in PURE_CORE and inner.as_posix() not in PURE_CORE:
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


def test_what_decides_a_number_is_hashed_and_what_reports_or_stores_is_not() -> None:
    """A correction to an upload must end no running experiment, and one to a formula must never pass unseen."""
    hashed = {name for name in hashed_sources() if not name.endswith("__init__.py")}
    assert hashed >= {
        "contract/recipe.py", "contract/spec.py", "divergence.py", "evaluate.py", "loop.py", "model/attention.py",
        "model/gpt.py", "model/head.py", "model/head_cpu.cpp", "model/head_cpu.py", "optim/muon.py",
        "optim/optimizer.py", "runtime/machine.py",
    }  # fmt: skip
    assert {name for name in hashed if "/" not in name} == {"divergence.py", "evaluate.py", "loop.py"}
    folders = {name.partition("/")[0] for name in hashed if "/" in name}
    assert folders == {"contract", "model", "optim", "runtime"}
    assert {name for name in hashed if name.startswith("contract/")} == {
        "contract/blocks.py", "contract/footprint.py", "contract/recipe.py", "contract/spec.py",
    }  # fmt: skip
    for name in NOT_HASHED:
        assert (ROOT / "trainer" / name).exists(), f"{name} in trainer/contract/code.py is not there"


def test_files_are_short_enough_to_hold_in_the_head() -> None:
    for folder in ("patron_core", "trainer", "notebooks"):
        for path in sources(folder):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            assert lines <= 330, f"{path.relative_to(ROOT)} has {lines} lines"


def test_importing_the_core_loads_nothing_heavy() -> None:
    heavy = "torch mlflow marimo polars altair sqlalchemy alembic pydantic numpy sky"
    code = f"import sys, patron_core; print(*[m for m in {heavy.split()!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.py")), ids=lambda path: path.stem)
def test_in_the_editor_a_notebook_tells_its_story_first_and_folds_its_code(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    setups = [node.items[0].context_expr for node in tree.body if isinstance(node, ast.With)]
    cells = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.decorator_list]
    first = next(node.name for node in cells)
    assert first == "title", f"{path.name} begins with {first}"
    for said in [*setups, *(node.decorator_list[0] for node in cells)]:
        assert "hide_code=True" in ast.unparse(said), f"{path.name}:{said.lineno} shows its code"
