"""What leaves for a rented machine: the sources and nothing beside them, whatever lies in the checkout."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from patron_core.errors import Refused
from patron_core.executors.staging import stage
from trainer.contract.code import code_hash
from trainer.contract.commit import commit_of

ROOT = Path(__file__).parents[2]
SECRET = "planted-secret-4711"
PLANTED = (
    ".env", ".netrc", "id_rsa", "key.pem", "credentials.json", "scratch.py", "notebooks/scratch.py", "data/corpus.txt",
    "patron_core/.env", "patron_core/key.pem", "trainer/service-account.json", "trainer/.hidden/token.py",
    "skypilot/.env", "skypilot/mine.yaml", "trainer/__pycache__/secret.py", "trainer/notes.txt",
    "patron_core/ui/scratch.ipynb", ".sky/config.yaml",
)  # fmt: skip

NOT_FOR_MACHINES = ("patron_core/ui/", "patron_core/workloads/examples/")  # pages; examples travel as a run's files


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of ours with a commit, and with secrets in every corner."""
    root = tmp_path / "checkout"
    shared = shutil.ignore_patterns("__pycache__")
    for name in ("patron_core", "trainer"):
        shutil.copytree(ROOT / name, root / name, ignore=shared)
    (root / "skypilot").mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "skypilot/requirements.txt"):
        shutil.copy(ROOT / name, root / name)
    git = ("git", "-C", str(root), "-c", "user.name=ada", "-c", "user.email=ada@example.org")
    for arguments in (("init", "-q"), ("add", "."), ("commit", "-qm", "first")):
        subprocess.run([*git, *arguments], check=True)
    subprocess.run([*git, "config", "remote.origin.url", f"https://{SECRET}@example.org/x"], check=True)
    for name in PLANTED:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(SECRET)
    outside = tmp_path / "outside.py"
    outside.write_text(SECRET)
    (root / "trainer" / "link.py").symlink_to(outside)
    (root / "patron_core" / "linked").symlink_to(tmp_path)
    return root


def test_only_sources_are_sent_and_no_secret(home: Path, checkout: Path) -> None:
    sent = {str(path.relative_to(stage(checkout))) for path in stage(checkout).rglob("*") if path.is_file()}
    tracked = subprocess.run(
        ["git", "-C", str(checkout), "ls-files"], capture_output=True, text=True, check=True
    ).stdout.split()
    of_pages = {name for name in tracked if name.startswith(NOT_FOR_MACHINES) and not name.endswith(".py")}
    assert sent == {*tracked, "trainer/commit.json"} - of_pages
    assert {Path(name).parts[0] for name in sent} == {
        "patron_core", "trainer", "pyproject.toml", "README.md", "LICENSE", "skypilot",
    }  # fmt: skip
    for path in stage(checkout).rglob("*"):
        assert path.is_dir() or SECRET not in path.read_text(), path


def test_the_commit_goes_along_without_git(home: Path, checkout: Path) -> None:
    said = json.loads((stage(checkout) / "trainer" / "commit.json").read_text())
    assert said == commit_of(checkout)
    assert len(said["git_commit"]) == 40
    assert commit_of(stage(checkout)) == said
    (checkout / "trainer" / "loop.py").write_text("changed = True\n")
    assert commit_of(checkout)["git_diff_hash"] is not None


def test_the_same_sources_are_staged_once_and_others_beside_them(home: Path, checkout: Path) -> None:
    first = stage(checkout)
    assert stage(checkout) == first
    (checkout / "trainer" / "loop.py").write_text("changed = True\n")
    assert stage(checkout) != first
    assert sorted(path.name for path in first.parent.iterdir()) == sorted({first.name, stage(checkout).name})


def test_what_is_sent_computes_what_the_checkout_computes(home: Path) -> None:
    """The hash that the plan is held against is that of the copy, and the guard's module is there."""
    code = (
        "import trainer.contract.code as code, patron_core.executors.guard as guard, trainer.environment;"
        "print(code.code_hash(), code.__file__, guard.__file__)"
    )
    sent = stage(ROOT)
    done = subprocess.run([sys.executable, "-c", code], cwd=sent, capture_output=True, text=True, check=True)
    hashed, *files = done.stdout.split()
    assert hashed == code_hash()
    assert all(file.startswith(str(sent)) for file in files)


def test_a_folder_that_is_no_checkout_is_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no patron_core, trainer"):
        stage(tmp_path)
