"""The files of foreign code: an archive that is checked by its hash, unpacked once, never outside its folder."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

from trainer.contract.exits import BadSpec
from trainer.contract.files import cache_folder, write_atomic
from trainer.contract.foreign import ForeignSpec

WORK = "work"
_MARK = "work.sha256"  # beside it: which archive it was unpacked from, to its end
MAX_UNPACKED_BYTES = 2**30
MAX_FILES = 50_000


def checked(content: bytes | None, expected: str) -> bytes:
    if content is None:
        raise BadSpec("its files are not in the run directory; plan it again")
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise BadSpec(f"its files have hash {found[:16]}, planned were {expected[:16]}; plan it again")
    return content


def unpack(content: bytes, work: Path, spec: ForeignSpec) -> None:
    """What the code itself wrote there since stays. Shared folders are links into the cache."""
    mark = work.with_name(_MARK)
    if not mark.exists() or mark.read_text() != spec.sources:
        work.mkdir(parents=True, exist_ok=True)
        try:
            with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
                _check_size(archive)
                archive.extractall(work, filter="data")
        except (tarfile.TarError, OSError, EOFError) as error:
            raise BadSpec(f"its files cannot be unpacked: {error}") from error
        write_atomic(mark, spec.sources)
    for name in spec.shared:
        _share(work / name, cache_folder() / "foreign" / spec.cache_name() / name)


def _check_size(archive: tarfile.TarFile) -> None:
    total = 0
    for number, member in enumerate(archive, 1):
        total += member.size
        if number > MAX_FILES or total > MAX_UNPACKED_BYTES:
            raise BadSpec(f"its files are more than {MAX_FILES:,} or {MAX_UNPACKED_BYTES:,} bytes")


def _share(here: Path, there: Path) -> None:
    there.mkdir(parents=True, exist_ok=True)
    if not here.exists():
        here.parent.mkdir(parents=True, exist_ok=True)
        here.symlink_to(there, target_is_directory=True)
