"""Where text comes from: a source gives documents (str) in a fixed order, split into training and held-out parts.

    stdlib           the running Python's own standard library, one document a file: real text on every machine, offline
    path:/a/b        a text file, a .parquet file with a `text` column, or a folder of them
    fineweb-edu      karpathy/fineweb-edu-100b-shuffle, parquet shards, fetched as needed
    climbmix         karpathy/climbmix-400b-shuffle, likewise; what nanochat trains on

A remote source is read at one revision, which is asked for once and then kept with the run, beside all runs and in the
cache: what `main` is tomorrow changes no experiment. A mirror that tells of no revision is trusted to stay as it is.

Held out: the last shard of a remote source; of local files some twentieth of the documents (see `local`).
"""

from __future__ import annotations

import os
import re
import sysconfig
from pathlib import Path
from typing import Protocol

from trainer.data.download import ask_header, discard, download
from trainer.data.errors import DataError
from trainer.data.files import Progress, no_progress, sha256_text
from trainer.data.local import SUFFIXES, LocalSource
from trainer.data.parts import Part, parquet_rows

REMOTE_SHARD_CHARS = 250_000_000  # typical; only for progress
# name: (base URL, its override in the environment, index of the last shard, which is held out)
REMOTES = {
    "climbmix": (
        "https://huggingface.co/datasets/karpathy/climbmix-400b-shuffle/resolve/main",
        "PATRON_CLIMBMIX_URL",
        6542,
    ),
    "fineweb-edu": (
        "https://huggingface.co/datasets/karpathy/fineweb-edu-100b-shuffle/resolve/main",
        "PATRON_FINEWEB_EDU_URL",
        1822,
    ),
}


_REVISION = re.compile(r"[0-9a-f]{40}")


class Source(Protocol):
    name: str
    num_train_parts: int
    where: dict[str, str]  # the url and the revision of a remote source

    @property
    def identity(self) -> str: ...  # changes when the text may have
    def train_chars(self) -> int: ...  # of remote sources about
    def train_part(self, index: int) -> Part: ...
    def val_part(self) -> Part: ...
    def remark(self) -> str: ...  # what of it cannot be used, in a sentence; empty where all can


def open_source(name: str, cache: Path, revision: str | None = None) -> Source:
    """The source a spec names; a remote one as it was in `revision`. Reads nothing yet, except to list local files."""
    if name == "stdlib":
        return LocalSource(name, *_stdlib_files(), cache)
    if name.startswith("path:"):
        return LocalSource(name, *_path_files(Path(name.removeprefix("path:")).expanduser()), cache)
    if name in REMOTES:
        return RemoteSource(name, cache, revision)
    raise DataError(f"Unknown data source {name!r}.", next=f"choose stdlib, {', '.join(REMOTES)} or path:/a/folder")


def base_url(name: str) -> str:
    """Where a remote source is read, before its revision is known."""
    default_url, variable, _ = REMOTES[name]
    return os.environ.get(variable, default_url).rstrip("/")


def ask_revision(name: str, progress: Progress = no_progress) -> str | None:
    """The revision that a remote source has now; None where the server tells of none. Raises Unreachable."""
    url = f"{base_url(name)}/{_file(REMOTES[name][2])}"
    told = ask_header(url, "x-repo-commit", progress=progress, next=_instead(name))
    return told if is_revision(told) else None


def is_revision(value: object) -> bool:
    return isinstance(value, str) and _REVISION.fullmatch(value) is not None


def _file(index: int) -> str:
    return f"shard_{index:05d}.parquet"


def _instead(name: str) -> str:
    return f"check the network, set {REMOTES[name][1]} to a mirror, or use data stdlib or path:/a/folder"


class RemoteSource:
    """Numbered parquet shards behind a base URL."""

    def __init__(self, name: str, cache: Path, revision: str | None):
        self.name = name
        self._last = self.num_train_parts = REMOTES[name][2]
        url = base_url(name)
        self.where = {"url": url} | ({"revision": revision} if revision else {})
        self._url = re.sub(r"/resolve/main$", f"/resolve/{revision}", url) if revision else url
        self._folder = cache / "downloads" / f"{name}-{sha256_text(self._url)[:8]}"
        self.identity = f"{name} {revision}" if revision else url

    def train_chars(self) -> int:
        return self.num_train_parts * REMOTE_SHARD_CHARS

    def train_part(self, index: int) -> Part:
        return self._part(index)

    def val_part(self) -> Part:
        return self._part(self._last)

    def remark(self) -> str:
        return ""

    def _part(self, index: int) -> Part:
        file = _file(index)
        path, url = self._folder / file, f"{self._url}/{file}"
        return Part(
            name=f"{self.name} {file}",
            fingerprint=f"{self.identity} {file}",
            size_chars=REMOTE_SHARD_CHARS,
            fetch=lambda progress: download(url, path, progress=progress, next=_instead(self.name)),
            documents=lambda: (text for _, text in parquet_rows(path, path.name)),
            discard=lambda: discard(path),
        )


def _stdlib_files() -> tuple[Path, list[str]]:
    root = Path(sysconfig.get_path("stdlib"))
    skipped = {"site-packages", "dist-packages", "__pycache__"}
    names = []
    for folder, folders, files in os.walk(root):
        folders[:] = [f for f in folders if f not in skipped]
        names += [(Path(folder) / f).relative_to(root).as_posix() for f in files if f.endswith(".py")]
    if not names:
        raise DataError(
            f"This Python's standard library has no .py files under {root}.",
            next="use a Python with its sources, or data path:/a/folder",
        )
    return root, names


def _path_files(path: Path) -> tuple[Path, list[str]]:
    if path.is_file() and path.suffix in SUFFIXES:
        return path.parent, [path.name]
    names = [p.relative_to(path).as_posix() for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file()]
    if not names:
        found = "holds none" if path.is_dir() else "is another kind of file" if path.exists() else "does not exist"
        raise DataError(f"No text at {path}: it {found}.", next=f"give a file or folder of {', '.join(SUFFIXES)}")
    return path, names
