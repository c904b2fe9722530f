"""What was made of a source, kept beside the runs: the next run finds it, and the next machine, whose disk is empty.

Whoever can write there can write anything: what comes down is bounded by what it states, checked against its hash and
for being what it claims to be, and refused otherwise; then it is made anew. A place that does not answer is no fault of
the training's: after a few failures in a row it is left alone.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from trainer.contract.layout import data_place
from trainer.contract.remote import Remote, RemoteError, is_url
from trainer.contract.shapes import object_of
from trainer.data.files import Progress, no_progress
from trainer.data.shards import MANIFEST, MAX_STATED_BYTES, Book, TokenShard, read_manifest, read_shard, stated_name

FAILURES_IN_A_ROW = 3
MAX_SMALL_BYTES = MAX_STATED_BYTES
READ_WITHIN_S = 30.0


def keep_of(run_dir: str, cache: Path) -> str | None:
    """The place beside the runs, where it is another than this machine's own disk; None: the cache is enough."""
    place = data_place(run_dir)
    if is_url(place):
        return place
    runs = Path(place).absolute().parent
    cache.mkdir(parents=True, exist_ok=True)
    if not runs.is_dir() or runs.stat().st_dev == cache.stat().st_dev:
        return None
    return f"file://{runs / Path(place).name}"


class Keep:
    """`put` returns at once; `drain` waits for what is under way. None of its calls raises for the place's sake."""

    def __init__(self, url: str | None, progress: Progress = no_progress):
        self._progress, self._failures = progress, 0
        self._remote = Remote(url, timeout_s=READ_WITHIN_S, retry_s=READ_WITHIN_S) if url else None
        self._uploads = ThreadPoolExecutor(1, thread_name_prefix="keep")
        self._last: Future[Any] | None = None

    @property
    def is_used(self) -> bool:
        return self._remote is not None and self._failures < FAILURES_IN_A_ROW

    def put(self, name: str, content: bytes | Path) -> None:
        """Objects arrive in the order in which they are given."""
        if self.is_used:
            self._last = self._uploads.submit(self._try, lambda remote: remote.put(name, content))

    def put_shard(self, folder: str, shard: TokenShard, index: int) -> None:
        for path, _, _ in shard.files():
            self.put(f"{folder}/{path.name}", path)
        stated = shard.tokens_path.with_name(stated_name(index))
        self.put(f"{folder}/{stated.name}", stated.read_bytes())

    def put_manifest(self, folder: str, here: Path) -> None:
        self.put(f"{folder}/{MANIFEST}", (here / MANIFEST).read_bytes())

    def drain(self) -> None:
        if self._last is not None:
            self._last.result()

    def get_small(self, name: str) -> bytes | None:
        """None where there is none, and of one that is larger than any that was put there."""

        content: bytes | None = self._try(lambda remote: remote.get(name, MAX_SMALL_BYTES))
        return content or None

    def get_object(self, name: str) -> dict[str, Any] | None:
        return object_of(self.get_small(name))

    def get_book(self, folder: str, here: Book) -> None:
        """State in `here` what is stated there and not here yet. Not the files: those come when they are wanted."""
        if not self.is_used or here.is_whole:
            return
        manifest = self.get_object(f"{folder}/{MANIFEST}")
        stated = read_manifest(here.folder, manifest) if manifest is not None else None
        if stated is not None and len(stated) >= len(here.shards) and stated[: len(here.shards)] == here.shards:
            here.shards = stated
            here.close()
            return
        while (row := self.get_object(f"{folder}/{stated_name(len(here.shards))}")) is not None:
            shard = read_shard(here.folder, len(here.shards), row)
            if shard is None:
                return
            here.add(shard)

    def get_files(self, folder: str, shard: TokenShard, num_ids: int) -> bool:
        """Bring the shard's files to their place; False where they are not there, or not what is stated."""
        if not self.is_used:
            return False
        self._progress(f"fetching {shard.num_tokens / 1e6:.1f}M tokens that were made before", None)
        arrived = [self._get_file(f"{folder}/{path.name}", path, size, sha) for path, size, sha in shard.files()]
        if all(arrived) and shard.is_sound(num_ids):
            return True
        shard.remove()
        return False

    def _get_file(self, name: str, path: Path, size: int, sha256: str) -> bool:
        def read(remote: Remote) -> bool:
            digest, received = hashlib.sha256(), 0
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
                try:
                    for chunk in remote.stream(name):
                        received += len(chunk)
                        if received > size:
                            return False
                        digest.update(chunk)
                        file.write(chunk)
                    file.flush()
                    if digest.hexdigest() != sha256:
                        return False
                    Path(file.name).chmod(0o644)
                    Path(file.name).replace(path)
                    return True
                finally:
                    Path(file.name).unlink(missing_ok=True)

        return bool(self._try(read))

    def _try(self, ask: Callable[[Remote], Any]) -> Any:
        """What is asked for; None where it is not there, or the place does not answer."""
        if self._remote is None or not self.is_used:
            return None
        try:
            found = ask(self._remote)
        except FileNotFoundError:
            found = None
        except RemoteError as error:
            self._failures += 1
            if self._failures == FAILURES_IN_A_ROW:
                self._progress(f"tokens are not kept beside the runs: {error}", None)
            return None
        self._failures = 0
        return found
