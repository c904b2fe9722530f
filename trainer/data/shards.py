"""Token shards: text is tokenised once, into files that every later start maps into memory.

    <cache>/tokens/<key>/00000.tokens    uint16 (uint32 for vocabularies above 65536), documents one after the other
    <cache>/tokens/<key>/00000.offsets   int64 [num_documents + 1], where each document begins, in tokens
    <cache>/tokens/<key>/manifest.json   sizes and sha256 of the above

The key is the text's fingerprint, the tokenizer's hash and FORMAT. A folder is built beside its place and renamed, so
it is there whole or not at all; one that no longer matches its manifest is built again. Every document begins with BOS.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from trainer.contract.files import write_atomic
from trainer.data.files import Progress, locked, no_progress, sha256_file, sha256_text
from trainer.data.parts import Part
from trainer.data.tokenizer import Tokenizer

FORMAT = 1  # count up when the same text would give other files
SHARD_TOKENS = 2**26  # a file is closed at the first document end past this
BATCH_CHARS = 4_000_000  # text in flight while tokenising


@dataclass(frozen=True, kw_only=True)
class TokenShard:
    """One pair of files."""

    tokens_path: Path
    offsets_path: Path
    dtype: str
    num_tokens: int
    num_documents: int
    tokens_sha256: str
    offsets_sha256: str

    def tokens(self) -> np.ndarray:
        """[num_tokens], mapped, not read."""
        return np.asarray(np.memmap(self.tokens_path, dtype=self.dtype, mode="r"))

    def offsets(self) -> np.ndarray:
        return np.fromfile(self.offsets_path, dtype="<i8")

    def is_intact(self) -> bool:
        return (
            self.tokens_path.is_file()
            and self.offsets_path.is_file()
            and sha256_file(self.offsets_path) == self.offsets_sha256
            and sha256_file(self.tokens_path) == self.tokens_sha256
        )


def ensure_shards(
    part: Part, tokenizer: Tokenizer, vocab_size: int, cache: Path, progress: Progress = no_progress
) -> tuple[TokenShard, ...]:
    """The part's token shards, built unless the cache has them whole."""
    dtype, folder = _place(part, tokenizer, vocab_size, cache)
    with locked(folder, progress):
        shards = _read_manifest(folder)
        if shards is None:
            part.fetch(progress)
            _build(part, tokenizer, dtype, folder, progress)
            shards = _read_manifest(folder)
            if shards is None:
                raise OSError(f"token shards in {folder} changed while they were written; check the disk")
        return shards


def are_cached(part: Part, tokenizer: Tokenizer, vocab_size: int, cache: Path) -> bool:
    """Whether `ensure_shards` has likely nothing to do. Looks, does not check."""
    return _place(part, tokenizer, vocab_size, cache)[1].is_dir()


def _place(part: Part, tokenizer: Tokenizer, vocab_size: int, cache: Path) -> tuple[str, Path]:
    dtype = "<u2" if vocab_size <= 2**16 else "<u4"
    return dtype, cache / "tokens" / sha256_text(f"{FORMAT} {dtype} {tokenizer.hash} {part.fingerprint}")[:24]


def _read_manifest(folder: Path) -> tuple[TokenShard, ...] | None:
    """None: not there, or not as written."""
    try:
        rows = json.loads((folder / "manifest.json").read_text())["shards"]
        shards = tuple(
            TokenShard(**row | {name: folder / row[name] for name in ("tokens_path", "offsets_path")}) for row in rows
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return shards if all(shard.is_intact() for shard in shards) else None


def _build(part: Part, tokenizer: Tokenizer, dtype: str, folder: Path, progress: Progress) -> None:
    building = folder.with_name(folder.name + ".part")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    documents = _encode(part, tokenizer, np.dtype(dtype), progress)
    shards: list[dict[str, object]] = []
    while (shard := _write_shard(documents, building, len(shards), dtype)) is not None:
        shards.append(asdict(shard) | {"tokens_path": shard.tokens_path.name, "offsets_path": shard.offsets_path.name})
    manifest = {"part": part.name, "fingerprint": part.fingerprint, "tokenizer": tokenizer.hash, "shards": shards}
    write_atomic(building / "manifest.json", json.dumps(manifest, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    building.replace(folder)


def _encode(part: Part, tokenizer: Tokenizer, dtype: np.dtype, progress: Progress) -> Iterator[np.ndarray]:
    num_chars = num_tokens = 0
    for texts in _batches(part.documents()):
        for document in tokenizer.encode_documents(texts, dtype):
            num_tokens += len(document)
            yield document
        num_chars += sum(map(len, texts))
        fraction = min(0.99, num_chars / part.size_chars)
        progress(f"tokenising {part.name}: {num_tokens / 1e6:.1f}M tokens", fraction)
    progress(f"tokenised {part.name}: {num_tokens / 1e6:.1f}M tokens", 1.0)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _write_shard(documents: Iterator[np.ndarray], folder: Path, index: int, dtype: str) -> TokenShard | None:
    """Write documents until the shard is full. None: there were none left."""
    tokens_path, offsets_path = folder / f"{index:05d}.tokens", folder / f"{index:05d}.offsets"
    offsets = [0]
    with tokens_path.open("wb") as file:
        for document in documents:
            document.tofile(file)
            offsets.append(offsets[-1] + len(document))
            if offsets[-1] >= SHARD_TOKENS:
                break
        file.flush()
        os.fsync(file.fileno())
    if len(offsets) == 1:
        tokens_path.unlink()
        return None
    np.array(offsets, dtype="<i8").tofile(offsets_path)
    return TokenShard(
        tokens_path=tokens_path,
        offsets_path=offsets_path,
        dtype=dtype,
        num_tokens=offsets[-1],
        num_documents=len(offsets) - 1,
        tokens_sha256=sha256_file(tokens_path),
        offsets_sha256=sha256_file(offsets_path),
    )
