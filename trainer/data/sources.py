"""Where text comes from: a source gives documents (str) in a fixed order, split into training and held-out parts.

    stdlib           the running Python's own standard library, one document a file: real text on every machine, offline
    path:/a/b        a text file, a .parquet file with a `text` column, or a folder of them
    fineweb-edu      karpathy/fineweb-edu-100b-shuffle, parquet shards, fetched as needed
    climbmix         karpathy/climbmix-400b-shuffle, likewise; what nanochat trains on

Held out: the last shard of a remote source. Otherwise every document whose name hashes into the lowest 5 %, at least
one. That depends on nothing but the name, so adding or reordering files never moves a document across the line. In a
folder the name is the file's (all pieces of a file stay on one side), in a single file the piece's, in parquet the
row's.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trainer.data.download import download
from trainer.data.errors import DataError
from trainer.data.files import Progress, sha256_text

HELD_OUT = 0.05
TEXT_SUFFIXES = (".txt", ".md", ".py")
SUFFIXES = (*TEXT_SUFFIXES, ".parquet")
ROWS_AT_ONCE = 8192
LONG_FILE_CHARS = 2**20  # longer files are cut, so that memory stays bounded
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


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is tokenised as a unit. `fingerprint` changes when the text may have; `fetch` brings it to this machine."""

    name: str
    fingerprint: str
    size_chars: int  # about; only for progress
    fetch: Callable[[Progress], None]
    documents: Callable[[], Iterator[str]]


class Source(Protocol):
    name: str
    num_train_parts: int

    def train_part(self, index: int) -> Part: ...
    def val_part(self) -> Part: ...


def open_source(name: str, cache: Path) -> Source:
    """The source a spec names. Reads nothing yet, except to list local files."""
    if name == "stdlib":
        return LocalSource(name, *_stdlib_files())
    if name.startswith("path:"):
        return LocalSource(name, *_path_files(Path(name.removeprefix("path:")).expanduser()))
    if name in REMOTES:
        return RemoteSource(name, cache)
    raise DataError(f"Unknown data source {name!r}.", next=f"choose stdlib, {', '.join(REMOTES)} or path:/a/folder")


class RemoteSource:
    """Numbered parquet shards behind a base URL."""

    def __init__(self, name: str, cache: Path):
        default_url, variable, self._last = REMOTES[name]
        self.name = name
        self.num_train_parts = self._last
        self._variable = variable
        self._url = os.environ.get(variable, default_url).rstrip("/")
        self._folder = cache / "downloads" / f"{name}-{sha256_text(self._url)[:8]}"

    def train_part(self, index: int) -> Part:
        return self._part(index)

    def val_part(self) -> Part:
        return self._part(self._last)

    def _part(self, index: int) -> Part:
        file = f"shard_{index:05d}.parquet"
        path, url = self._folder / file, f"{self._url}/{file}"
        instead = f"check the network, set {self._variable} to a mirror, or use data stdlib or path:/a/folder"
        return Part(
            name=f"{self.name} {file}",
            fingerprint=url,
            size_chars=REMOTE_SHARD_CHARS,
            fetch=lambda progress: download(url, path, progress=progress, next=instead),
            documents=lambda: (text for _, text in _parquet_rows(path, path.name)),
        )


class LocalSource:
    """Files under a root. One training part and one held-out part."""

    def __init__(self, name: str, root: Path, names: list[str]):
        self.name = name
        self.num_train_parts = 1
        self._root = root
        self._names = sorted(names, key=_hash_fraction)  # mixes folders, so that any stretch is a fair sample
        stats = [(name, (root / name).stat()) for name in sorted(names)]
        self._size = sum(stat.st_size for _, stat in stats)
        self._fingerprint = sha256_text(f"{root}" + "".join(f"\n{n} {s.st_size} {s.st_mtime_ns}" for n, s in stats))

    def train_part(self, index: int) -> Part:
        return self._part("train", held_out=False)

    def val_part(self) -> Part:
        return self._part("val", held_out=True)

    def _part(self, split: str, *, held_out: bool) -> Part:
        return Part(
            name=f"{self.name} {split}",
            fingerprint=f"{self._fingerprint} {split}",
            size_chars=max(1, round(self._size * (HELD_OUT if held_out else 1 - HELD_OUT))),
            fetch=lambda progress: None,
            documents=lambda: (t for n, t in self._entries() if (_hash_fraction(n) <= self._border) == held_out),
        )

    @functools.cached_property
    def _border(self) -> float:
        """Names that hash to this or below are held out; raised to the lowest hash where none lies below 5 %."""
        lowest = 1.0
        for name, _ in self._entries():
            lowest = min(lowest, _hash_fraction(name))
            if lowest <= HELD_OUT:
                return HELD_OUT
        return lowest

    def _entries(self) -> Iterator[tuple[str, str]]:
        """(name that decides the split, document)"""
        for name in self._names:
            path = self._root / name
            if path.suffix == ".parquet":
                yield from _parquet_rows(path, name)
            elif len(self._names) == 1:
                piece_chars = min(max(path.stat().st_size // 64, 512), 65536)
                for index, text in enumerate(_text_pieces(path, piece_chars, piece_chars)):
                    yield f"{name}#{index}", text
            else:
                for text in _text_pieces(path, LONG_FILE_CHARS, 65536):
                    yield name, text


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


def _text_pieces(path: Path, longest_chars: int, piece_chars: int) -> Iterator[str]:
    """The file's text: whole up to `longest_chars`, else pieces of at least `piece_chars` that end at a blank line.

    A file that is not UTF-8 is left out, without a word: the standard library has some on purpose.
    """
    try:
        if path.stat().st_size <= longest_chars:
            text = path.read_text(encoding="utf-8")
            if text.strip():
                yield text
            return
        with path.open(encoding="utf-8") as file:
            yield from _cut_at_blank_lines(file, piece_chars)
    except (UnicodeDecodeError, PermissionError):
        return


def _cut_at_blank_lines(lines: Iterator[str], piece_chars: int) -> Iterator[str]:
    piece: list[str] = []
    size = 0
    for line in lines:
        piece.append(line)
        size += len(line)
        # text without blank lines is cut all the same, at a line end
        if size >= piece_chars and (not line.strip() or size >= 2 * piece_chars):
            yield "".join(piece)
            piece, size = [], 0
    if "".join(piece).strip():
        yield "".join(piece)


def _parquet_rows(path: Path, name: str) -> Iterator[tuple[str, str]]:
    try:
        import polars as pl  # only here: a machine that trains on text needs none
    except ImportError as error:
        raise DataError(
            f"{path} is parquet, and polars, which reads it, is not installed.", next="pip install polars"
        ) from error
    frame = pl.scan_parquet(path)
    try:
        columns = frame.collect_schema().names()
    except pl.exceptions.ComputeError as error:
        raise DataError(f"{path} is not a parquet file: {error}.", next="remove it or replace it") from error
    if "text" not in columns:
        raise DataError(f"{path} has no column `text`.", next="rename the column that holds the documents to `text`")
    start = 0
    while True:
        texts = frame.select("text").slice(start, ROWS_AT_ONCE).collect()["text"]
        for index, text in enumerate(texts, start):
            if text:
                yield f"{name}#{index}", text
        if len(texts) < ROWS_AT_ONCE:
            return
        start += len(texts)


def _hash_fraction(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64
