"""Local files as a source: what of them can be read, what their documents are, and which of those are held out.

A document is a file or a row of a parquet file. Where one file makes up much of the text (a single book, a corpus with
a readme beside it), files are cut into pieces and the pieces are the documents, so that both sides of the split get
some of every large file. Held out is every document whose name hashes into the lowest 5 %; where that is too little of
the text, the next ones too. The name alone decides, so adding or reordering files moves no document across the line
while neither their cut nor their least share changes.

What takes a pass over all the text to know, the `Survey`, is kept in the cache.
"""

from __future__ import annotations

import codecs
import functools
import hashlib
import heapq
import io
import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from trainer.contract.files import write_atomic
from trainer.data.errors import DataError
from trainer.data.files import sha256_text
from trainer.data.parts import Part, parquet_rows

TEXT_SUFFIXES = (".txt", ".md", ".py")
SUFFIXES = (*TEXT_SUFFIXES, ".parquet")
HELD_OUT = 0.05  # of the documents
LEAST_HELD_OUT = 0.025  # of the text
LARGE_SHARE = 1 / 16  # of the text: a file above it is cut
PIECES = 64  # that a text of its own is cut into, about
PIECE_CHARS = (512, 65536)
LONG_FILE_CHARS = 2**20  # longer files are cut in any case, so that memory stays bounded; their pieces stay together
PARQUET_CHARS_PER_BYTE = 3  # text is compressed there; about
READ_BYTES = 2**20
SPLIT_VERSION = 3  # count up when the same files would give other documents or another split
_CANDIDATES = 1000  # documents that may be added to what is held out
_NAMED = 3  # files that a remark names
NOT_UTF8 = "not UTF-8"


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What one pass over all files found."""

    border: float  # names that hash to this or below are held out
    train_chars: int
    content: str  # sha256 of the names and contents of all files, wherever they lie
    num_texts: int  # text files, those left out included
    not_utf8: tuple[str, ...]
    unreadable: tuple[str, ...]  # may not be opened by this user


class LocalSource:
    """Files under a root. One training part and one held-out part. The same files are the same source anywhere."""

    num_train_parts = 1
    where: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, name: str, root: Path, names: list[str], cache: Path):
        self.name = name
        self._root = root
        self._names = sorted(names, key=hash_fraction)  # mixes folders, so that any stretch is a fair sample
        stats = [(name, (root / name).stat()) for name in sorted(names)]
        chars = [s.st_size * (PARQUET_CHARS_PER_BYTE if n.endswith(".parquet") else 1) for n, s in stats]
        self._size = sum(chars)
        self._is_cut = max(chars) > LARGE_SHARE * self._size
        self._piece_chars = min(max(self._size // PIECES, PIECE_CHARS[0]), PIECE_CHARS[1])
        listed = "".join(f"\n{n} {s.st_size} {s.st_mtime_ns}" for n, s in stats)
        looked_at = sha256_text(f"{root} split {SPLIT_VERSION}{listed}")
        self._survey_path = cache / "surveys" / f"{looked_at[:16]}.json"

    @property
    def identity(self) -> str:
        return f"{self.survey.content} split {SPLIT_VERSION}"

    def train_chars(self) -> int:
        return self.survey.train_chars

    def train_part(self, index: int) -> Part:
        return self._part("train", 1 - HELD_OUT, lambda name: hash_fraction(name) > self.survey.border)

    def val_part(self) -> Part:
        return self._part("val", HELD_OUT, lambda name: hash_fraction(name) <= self.survey.border)

    def remark(self) -> str:
        """Which files are left out, and why. The standard library has some that are not UTF-8, on purpose."""
        survey, said = self.survey, []
        for files, why in ((survey.not_utf8, NOT_UTF8), (survey.unreadable, "not readable by this user")):
            if files and self.name.startswith("path:"):
                named = ", ".join(files[:_NAMED]) + (" ..." if len(files) > _NAMED else "")
                said.append(f"{len(files)} of {survey.num_texts} text files are {why} and left out: {named}")
        return "; ".join(said)

    def _part(self, split: str, share: float, is_in: Callable[[str], bool]) -> Part:
        def documents() -> Iterator[str]:
            left_out = {*self.survey.not_utf8, *self.survey.unreadable}
            return (text for name, text in self._documents(left_out) if is_in(name))

        return Part(
            name=f"{self.name} {split}",
            fingerprint=f"{self.identity} {split}",
            size_chars=max(1, round(self._size * share)),
            fetch=lambda progress: None,
            documents=documents,
        )

    @functools.cached_property
    def survey(self) -> Survey:
        """Made once, then from the cache. Raises DataError where nothing is left to train on."""
        try:
            kept = json.loads(self._survey_path.read_text(encoding="utf-8"))
            return Survey(**kept | {key: tuple(kept[key]) for key in ("not_utf8", "unreadable")})
        except (OSError, ValueError, TypeError, KeyError):
            survey = self._look_at_all()
            self._survey_path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._survey_path, json.dumps(asdict(survey)))
            return survey

    def _look_at_all(self) -> Survey:
        texts = [name for name in self._names if not name.endswith(".parquet")]
        read = {name: _read(self._root / name, is_text=not name.endswith(".parquet")) for name in sorted(self._names)}
        faults = {name: fault for name, (fault, _) in read.items() if fault}
        not_utf8 = tuple(sorted(name for name, fault in faults.items() if fault == NOT_UTF8))
        if 2 * sum((self._root / name).stat().st_size for name in not_utf8) > self._size:
            raise DataError(
                f"Most of {self.name} is not UTF-8: {len(not_utf8)} of {len(self._names)} files, for instance "
                f"{not_utf8[0]}.",
                next="convert them (iconv -f latin1 -t utf-8 FILE -o NEW), or give another path",
            )
        border, train_chars = self._border(frozenset(faults))
        return Survey(
            border=border,
            train_chars=train_chars,
            content=sha256_text("".join(f"\n{name} {sha256}" for name, (_, sha256) in read.items())),
            num_texts=len(texts),
            not_utf8=not_utf8,
            unreadable=tuple(sorted(faults.keys() - set(not_utf8))),
        )

    def _border(self, left_out: frozenset[str]) -> tuple[float, int]:
        """The hash up to which names are held out: 5 %, or as far as the least share of the text needs. And the
        characters that are left to train on.
        """
        chars = {True: 0, False: 0}  # held out by the 5 %, or not
        lowest, lowest_chars, count = 1.0, 0, 0

        def others() -> Iterator[tuple[float, int]]:
            nonlocal lowest, lowest_chars, count
            for name, text in self._documents(left_out):
                place, count = hash_fraction(name), count + 1
                if place < lowest:
                    lowest, lowest_chars = place, 0
                lowest_chars += len(text) if place == lowest else 0
                chars[place <= HELD_OUT] += len(text)
                if place > HELD_OUT:
                    yield place, len(text)

        candidates = heapq.nsmallest(_CANDIDATES, others())
        total = sum(chars.values())
        self._check_number(count, total)
        if not candidates:
            return lowest, total - lowest_chars
        border, held_out = HELD_OUT, chars[True]
        for place, size in candidates[:-1]:  # one at least to train on
            if held_out >= LEAST_HELD_OUT * total:
                break
            border, held_out = place, held_out + size
        return border, total - held_out

    def _check_number(self, num_documents: int, num_chars: int) -> None:
        if num_documents < 2:
            said = "holds no text that can be read: its files are empty, or not UTF-8"
            if num_documents:
                said = f"is one document of {num_chars} characters: held out, it leaves nothing to train on"
            raise DataError(f"{self.name} {said}.", next="give a file or folder with more text in UTF-8")

    def _documents(self, left_out: Collection[str]) -> Iterator[tuple[str, str]]:
        """(name that decides the split, document)"""
        for name in self._names:
            path = self._root / name
            if name in left_out:
                continue
            if path.suffix == ".parquet":
                for row, text in parquet_rows(path, name):
                    yield from self._cut_row(row, text)
            elif self._is_cut:
                for index, text in enumerate(_text_pieces(path, self._piece_chars, self._piece_chars)):
                    yield f"{name}#{index}", text
            else:
                for text in _text_pieces(path, LONG_FILE_CHARS, PIECE_CHARS[1]):
                    yield name, text

    def _cut_row(self, name: str, text: str) -> Iterator[tuple[str, str]]:
        if len(text) <= max(LARGE_SHARE * self._size, PIECE_CHARS[1]):
            yield name, text
            return
        for index, piece in enumerate(_cut_at_blank_lines(io.StringIO(text), self._piece_chars)):
            yield f"{name}.{index}", piece


def hash_fraction(name: str) -> float:
    """In [0, 1), the same on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


def _read(path: Path, *, is_text: bool) -> tuple[str | None, str]:
    """Why a text file cannot be used, None where it can; and the sha256 of any file."""
    decoder, digest, fault = codecs.getincrementaldecoder("utf-8")(), hashlib.sha256(), None
    try:
        with path.open("rb") as file:
            while block := file.read(READ_BYTES):
                digest.update(block)
                fault = fault or (_decode(decoder, block) if is_text else None)
            fault = fault or (_decode(decoder, b"") if is_text else None)
    except PermissionError:
        return "unreadable" if is_text else None, ""
    return fault, digest.hexdigest()


def _decode(decoder: codecs.IncrementalDecoder, block: bytes) -> str | None:
    try:
        decoder.decode(block, not block)
    except UnicodeDecodeError:
        return NOT_UTF8
    return None


def _text_pieces(path: Path, longest_chars: int, piece_chars: int) -> Iterator[str]:
    """The file's text: whole up to `longest_chars`, else pieces of at least `piece_chars` that end at a blank line."""
    if path.stat().st_size <= longest_chars:
        text = path.read_text(encoding="utf-8")
        if text.strip():
            yield text
        return
    with path.open(encoding="utf-8") as file:
        yield from _cut_at_blank_lines(file, piece_chars)


def _cut_at_blank_lines(file: TextIO, piece_chars: int) -> Iterator[str]:
    """Text without blank lines is cut all the same: at a line end, or at a space where a line is very long."""
    text = ""
    while line := file.readline(piece_chars):
        text += line
        if len(text) >= piece_chars and (not line.strip() or len(text) >= 2 * piece_chars):
            end = len(text) if text.endswith("\n") else text.rfind(" ") + 1 or len(text)
            yield text[:end]
            text = text[end:]
    if text.strip():
        yield text
