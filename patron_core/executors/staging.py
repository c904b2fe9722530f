"""What goes to a rented machine: the sources that run there, by an allow-list, and nothing that lies beside them.

A checkout also holds `.env`, keys, `.git/config` with a token, scratch notebooks and data. What is sent is copied into
a folder of its own, named by its content, and SkyPilot uploads that folder as the job's workdir.

    python -m patron_core.executors.staging        makes it and prints it, for `sky jobs launch --workdir "$(...)"`
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from patron_core import settings
from patron_core.errors import PatronError, Refused
from trainer.contract.commit import COMMIT_FILE, commit_of
from trainer.contract.words import printable

PACKAGES = ("patron_core", "trainer")
# what installing the two packages reads, and the pinned ones that they need
FILES = ("pyproject.toml", "README.md", "LICENSE", "skypilot/requirements.txt")
WITH_WHEEL = Path("patron_core", "shipped")  # where pyproject.toml puts FILES in a wheel; settings.shipped
SOURCES = frozenset({".py", ".cpp", ".mako", ".typed"})
KEPT_S = 86_400.0  # a launch may still be uploading an older copy


def stage(root: Path) -> Path:
    """A folder with what a machine needs of the checkout `root`. The same sources give the same folder.

    Raises Refused where a part is missing.
    """
    files = {name: path.read_bytes() for name, path in sent_files(root)}
    files[COMMIT_FILE] = json.dumps(commit_of(root)).encode()
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    folder = settings.make_home() / "staged" / digest.hexdigest()[:16]
    if not folder.is_dir():
        _write(folder, files)
    os.utime(folder)
    _remove_old(folder)
    return folder


def sent_files(root: Path) -> Iterator[tuple[str, Path]]:
    """(name there, file here), in order of their names. Links are not followed: they lead out of the checkout.

    `root` is a checkout, or the folder that a wheel was installed into, where FILES lie inside the package.
    """
    beside = root if (root / FILES[0]).exists() else root / WITH_WHEEL
    missing = [name for name in PACKAGES if not (root / name).exists()]
    missing += [name for name in FILES if not (beside / name).exists()]
    if missing:
        raise Refused(f"{root} has no {', '.join(missing)}: no checkout of Patron", next="run Patron from its checkout")
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*")):
            parts = path.relative_to(root).parts
            hidden = any(part.startswith(".") or part in ("__pycache__", WITH_WHEEL.name) for part in parts)
            if path.suffix in SOURCES and not hidden and _is_own_file(path, root):
                yield str(path.relative_to(root)), path
    yield from ((name, beside / name) for name in FILES if _is_own_file(beside / name, root))


def _is_own_file(path: Path, root: Path) -> bool:
    return path.is_file() and path.resolve() == root.resolve() / path.relative_to(root)


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """At once: whoever sees the folder sees all of it."""
    building = folder.with_name(f".{folder.name}.{os.getpid()}")
    for name, content in files.items():
        path = building / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    try:
        building.rename(folder)
    except OSError:  # another process was first
        shutil.rmtree(building)


def _remove_old(newest: Path) -> None:
    for path in newest.parent.iterdir():
        if path != newest and time.time() - path.stat().st_mtime > KEPT_S:
            shutil.rmtree(path, ignore_errors=True)


def main() -> int:
    try:
        print(stage(Path(__file__).parents[2]))
    except PatronError as error:
        print(printable(f"{error.code}: {error.message}\nnext: {error.next}"), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
