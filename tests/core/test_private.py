"""What Patron makes is its owner's alone, and what it loads or imports is nobody else's."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from patron_core import settings
from patron_core.lifecycle.workload import _python
from patron_core.store import Store
from trainer.contract.code import python_module
from trainer.contract.files import compiled_folder, is_own

ROOT = Path(__file__).parents[2]


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_home_is_made_for_its_owner(home: Path) -> None:
    Store.open().close()
    assert mode(home) == 0o700


def test_a_home_of_an_older_patron_is_closed_and_a_folder_that_is_no_home_is_left(home: Path) -> None:
    home.mkdir(mode=0o755)
    settings.make_home()
    assert mode(home) == 0o755
    Store.open().close()
    settings.make_home()
    assert mode(home) == 0o700


def test_a_script_makes_files_that_others_cannot_read(home: Path) -> None:
    command = [sys.executable, str(ROOT / "notebooks" / "0_lab.py"), "--deposit", "1", "--yes", "--json"]
    subprocess.run(command, check=True, capture_output=True)
    made = [path for path in (home, *home.rglob("*")) if not path.is_symlink()]
    assert home / "patron.db" in made
    assert {str(path): oct(mode(path)) for path in made if mode(path) & 0o077} == {}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("PATRON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    return tmp_path / "cache"


def test_compiled_code_lives_in_a_folder_that_is_made_for_its_user(cache: Path) -> None:
    assert compiled_folder() == cache / f"compiled-{os.getuid()}"
    assert mode(compiled_folder()) == 0o700


@pytest.mark.parametrize("how", ["writable", "link", "file"])
def test_a_folder_that_others_could_have_filled_is_passed_over(cache: Path, tmp_path: Path, how: str) -> None:
    planted = cache / f"compiled-{os.getuid()}"
    cache.mkdir()
    if how == "writable":
        planted.mkdir()
        planted.chmod(0o777)
    elif how == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        planted.symlink_to(tmp_path / "elsewhere")
    else:
        planted.write_text("")
    assert compiled_folder() == tmp_path / "user" / ".cache" / "patron" / "compiled"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a file somebody else's")
def test_a_library_of_somebody_else_is_not_ours(cache: Path) -> None:
    library = compiled_folder() / "head-0.so"
    library.write_bytes(b"planted")
    assert is_own(library)
    os.chown(library, 65534, -1)
    assert not is_own(library)
    os.chown(compiled_folder(), 65534, -1)
    assert compiled_folder() != library.parent


def test_a_named_folder_that_is_not_ours_is_not_loaded_from(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "shared"))
    assert compiled_folder().name.startswith("patron-compiled-")
    assert is_own(compiled_folder())


def test_no_process_of_ours_imports_from_the_folder_it_starts_in(tmp_path: Path) -> None:
    for name in ("torch", "json", "patron_core", "trainer"):
        (tmp_path / f"{name}.py").write_text("print('planted')\n")
    command = [*_python("trainer.runtime.measure"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "planted" not in done.stdout + done.stderr
    code = "from trainer.contract.code import python_module; print(python_module('x')[1])"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "-P\n"
    assert python_module("x")[-2:] == ["-m", "x"]


def test_every_module_that_the_core_starts_is_started_so() -> None:
    for path in sorted((ROOT / "patron_core").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.List | ast.Tuple):
                words = [one.value for one in node.elts if isinstance(one, ast.Constant)]
                assert "-m" not in words or "-P" in words, f"{path}:{node.lineno}"
