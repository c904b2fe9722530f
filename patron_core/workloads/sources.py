"""Where foreign code comes from: a folder or a git repository, snapshotted as one archive that is named by its content.

    snapshot("~/my-project")                          as it is now, with what differs from its last commit
    snapshot("https://github.com/a/b@COMMIT")         or a branch, or a tag; nothing of the repository is executed
    snapshot("~/my-project@experiment", patch=text)   another branch of a local repository, with a patch on it

Nothing that a repository configures is run: it is read by way of a bare clone of our own, without hooks, filters or
submodules. Untracked hidden files, such as .env, stay where they are.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import io
import os
import re
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from patron_core import settings
from patron_core.errors import InvalidInput, Refused, Unavailable
from trainer.contract.foreign import MAX_SOURCES_BYTES
from trainer.contract.urls import mask

MAX_FILE_BYTES = 64 * 2**20
MAX_GIT_BYTES = 2**30  # of all files of a commit
MAX_DIFF_CHARS = 5000  # what is kept to be read; its hash is of all of it
_URL = re.compile(r"(https|ssh|git|file)://\S+|[\w.-]+@[\w.-]+:\S+")
_NOT_CODE = {"__pycache__", ".git", ".venv", "venv", "node_modules", "mlruns", "wandb"}
_GIT_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    files: dict[str, tuple[bytes, bool]]  # name with slashes -> (content, executable)
    origin: dict[str, str]  # for people: url or folder, commit, ref, diff, diff_sha256, patch_sha256

    def text(self, name: str) -> str | None:
        found = self.files.get(name)
        return None if found is None else found[0].decode(errors="replace")

    def archive(self) -> bytes:
        """The same files give the same bytes. Raises InvalidInput where they are too many."""
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name, (content, executable) in sorted(self.files.items()):
                info = tarfile.TarInfo(name)
                info.size, info.mode = len(content), 0o755 if executable else 0o644
                archive.addfile(info, io.BytesIO(content))
        packed = gzip.compress(plain.getvalue(), compresslevel=6, mtime=0)
        if len(packed) > MAX_SOURCES_BYTES:
            largest = sorted(self.files, key=lambda name: -len(self.files[name][0]))[:3]
            words = f"its files are {len(packed):,} bytes packed, most are {MAX_SOURCES_BYTES:,}"
            raise InvalidInput(
                [f"{words}; the largest: {', '.join(largest)}"],
                next="leave out what is no code, by .gitignore; data is fetched by the code where it runs",
            )
        return packed


def snapshot(where: str, *, patch: str | None = None, as_nobody: bool = False) -> Snapshot:
    """`as_nobody`: a repository is asked as a stranger would, without anything that this account has for git.

    Raises InvalidInput for a place that is none, Unavailable where git does not answer.
    """
    folder, ref = _folder_and_ref(where)
    if folder is not None and ref is None:
        found = _of_folder(folder)
    else:
        url, named = (str(folder), ref) if folder is not None else _url_and_ref(where)
        found = _of_git(url, named or "HEAD", as_nobody=as_nobody)
    return _patched(found, patch) if patch else found


def is_by_https(where: str) -> bool:
    """Whether it names a repository of another machine by https: nothing on this one, and none of its keys of ssh."""
    return re.match(r"https://[^/\s]", where) is not None and _folder_and_ref(where) == (None, None)


def _folder_and_ref(where: str) -> tuple[Path | None, str | None]:
    path = Path(where).expanduser()
    if path.is_dir():
        return path.resolve(), ("HEAD" if (path / "HEAD").is_file() and (path / "objects").is_dir() else None)
    before, at, ref = where.rpartition("@")
    path = Path(before).expanduser()
    return (path.resolve(), ref) if at and before and ref and path.is_dir() else (None, None)


def _url_and_ref(where: str) -> tuple[str, str]:
    before, at, ref = where.rpartition("@")
    if at and _URL.fullmatch(before) and "/" not in ref.split(":")[0]:
        return before, ref
    if _URL.fullmatch(where):
        return where, ""
    raise InvalidInput(
        [f"workload: {where!r:.200} is neither a folder here nor a git repository"],
        next="give a folder, or https://HOST/OWNER/NAME@COMMIT",
    )


def _of_git(url: str, ref: str, *, as_nobody: bool = False) -> Snapshot:
    """By way of a bare clone that is kept; what was fetched with credentials is not shown to nobody."""
    if ref.startswith("-"):
        raise InvalidInput([f"workload: {ref!r:.100} is no commit, branch or tag"], next="name one after the @")
    kept = hashlib.sha256(url.encode()).hexdigest()[:16]
    clone = settings.make_home() / "git" / (f"{kept}-public" if as_nobody else kept)
    refused = " without the git credentials of this account, which no token acts with" if as_nobody else ""
    if not (clone / "HEAD").exists():
        clone.parent.mkdir(parents=True, exist_ok=True)
        cloned = ("clone", "--quiet", "--bare", "--no-hardlinks", "--", url, str(clone))
        _git(*cloned, why=f"{url} cannot be cloned{refused}", as_nobody=as_nobody)
    else:
        heads = "+refs/heads/*:refs/heads/*"
        fetched = ("fetch", "--quiet", "--tags", "--", url, heads)
        _git(*fetched, at=clone, why=f"{url} cannot be fetched{refused}", as_nobody=as_nobody)
    asked = ["rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}"]
    commit = _git(*asked, at=clone, why=f"{url} has no commit, branch or tag {ref!r}").decode().strip()
    content = _git("archive", "--format=tar", commit, at=clone, why="its files cannot be read")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        files = dict(_plain_members(archive))
    origin = {"url": mask(url), "commit": commit}  # it stands in the spec, which every reader is shown
    return Snapshot(files=files, origin=origin | ({"ref": ref} if ref != "HEAD" else {}))


def _plain_members(archive: tarfile.TarFile) -> Iterator[tuple[str, tuple[bytes, bool]]]:
    """Files alone: links may lead anywhere."""
    for member in archive:
        file = archive.extractfile(member) if member.isreg() and member.size <= MAX_FILE_BYTES else None
        if file is not None:
            yield member.name, (file.read(), bool(member.mode & 0o100))


def _of_folder(folder: Path) -> Snapshot:
    files = {}
    for name in sorted(_names(folder)):
        path = folder / name
        if path.resolve() != path or not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
            continue  # a link, or in a folder that is one
        files[name] = (path.read_bytes(), os.access(path, os.X_OK))
    origin = {"folder": str(folder)}
    if (folder / ".git").exists():
        try:
            committed = _of_git(str(folder), "HEAD")
        except (Unavailable, Refused):  # no commit yet
            return Snapshot(files=files, origin=origin)
        diff = _diff(committed.files, files)
        origin["commit"] = committed.origin["commit"]
        if diff:
            origin |= {"diff": diff[:MAX_DIFF_CHARS], "diff_sha256": hashlib.sha256(diff.encode()).hexdigest()}
    return Snapshot(files=files, origin=origin)


def _names(folder: Path) -> Iterator[str]:
    """Tracked files, and untracked ones that are neither ignored nor hidden; without git, all that are not hidden."""
    if (folder / ".git").exists():
        tracked = _git("ls-files", "-z", at=folder, why="its files cannot be listed")
        others = _git("ls-files", "-z", "--others", "--exclude-standard", at=folder, why="its files cannot be listed")
        yield from (name for name in tracked.decode(errors="surrogateescape").split("\0") if name)
        untracked: Iterator[str] = (name for name in others.decode(errors="surrogateescape").split("\0") if name)
    else:
        untracked = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    for name in untracked:
        parts = name.split("/")
        if not any(part.startswith(".") or part in _NOT_CODE for part in parts):
            yield name


def _diff(before: dict[str, tuple[bytes, bool]], after: dict[str, tuple[bytes, bool]]) -> str:
    lines: list[str] = []
    for name in sorted({*before, *after}):
        old, new = before.get(name, (b"", False))[0], after.get(name, (b"", False))[0]
        if old == new:
            continue
        if b"\0" in old + new:
            lines.append(f"Binary file {name} differs\n")
            continue
        was, now = (part.decode(errors="replace").splitlines(keepends=True) for part in (old, new))
        lines += difflib.unified_diff(was, now, f"a/{name}", f"b/{name}")
    return "".join(lines)


def _patched(found: Snapshot, patch: str) -> Snapshot:
    """Raises InvalidInput where the patch does not apply. Git is started above the files: among them may be what looks
    like a repository, whose config names programs to be run."""
    with tempfile.TemporaryDirectory(prefix="patron-patch-") as made:
        folder = Path(made) / "files"
        folder.mkdir()
        for name, (content, executable) in found.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o755 if executable else 0o644)
        done = subprocess.run(
            ["git", "apply", "--whitespace=nowarn", f"--directory={folder.name}", "-"],
            cwd=made,
            env=_environ() | {"GIT_CEILING_DIRECTORIES": str(Path(made).parent)},
            input=patch,
            capture_output=True,
            text=True,
            timeout=_GIT_S,
            check=False,
        )
        if done.returncode:
            raise InvalidInput(
                [f"patch: it does not apply: {done.stderr.strip()[:500]}"], next="give one of these files"
            )
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
        paths = {name: folder / name for name in names}
        files = {
            name: (path.read_bytes(), os.access(path, os.X_OK))
            for name, path in paths.items()
            if path.is_file() and not path.is_symlink()
        }
    origin = found.origin | {
        "patch": patch[:MAX_DIFF_CHARS],
        "patch_sha256": hashlib.sha256(patch.encode()).hexdigest(),
    }
    return Snapshot(files=files, origin=origin)


def _git(*words: str, why: str, at: Path | None = None, as_nobody: bool = False) -> bytes:
    quiet = ["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "protocol.ext.allow=never"]
    where = ["-C", str(at)] if at is not None else []
    with tempfile.TemporaryFile() as errors:
        try:
            child = subprocess.Popen(
                ["git", *quiet, *where, *words],
                env=_environ_of_nobody() if as_nobody else _environ(),
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        except FileNotFoundError as error:
            raise Unavailable("git is not on the path", next="install git") from error
        is_over = threading.Event()

        def give_up() -> None:
            is_over.set()
            child.kill()

        timer = threading.Timer(_GIT_S, give_up)
        timer.start()
        try:
            with child:
                assert child.stdout is not None
                content = child.stdout.read(
                    MAX_GIT_BYTES + 1
                )  # a repository of kilobytes may hold a file a million times
                if len(content) > MAX_GIT_BYTES:
                    child.kill()
                    raise InvalidInput(
                        [f"{why}: they are more than {MAX_GIT_BYTES:,} bytes"], next="leave out of it what is no code"
                    )
        finally:
            timer.cancel()
        if is_over.is_set():
            raise Unavailable(f"{why}: no answer within {_GIT_S:.0f} s", next="try again")
        if child.returncode:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
            mend = "ask a person to plan it" if as_nobody else "git ls-remote the repository"
            raise Unavailable(f"{why}{': ' + said[-1][:300] if said else ''}", next=mend)
        return content


def _environ() -> dict[str, str]:
    return os.environ | {"GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1", "GIT_OPTIONAL_LOCKS": "0"}


def _environ_of_nobody() -> dict[str, str]:
    """Without what knows a password: no configuration with its helpers and headers, no .netrc, no certificate of the
    account, nobody who is asked."""
    theirs = ("GIT_CONFIG", "GIT_SSL_CERT", "GIT_SSL_KEY")
    kept = {name: value for name, value in _environ().items() if not name.startswith(theirs)}
    home = settings.make_home() / "git" / "nobody"
    home.mkdir(parents=True, exist_ok=True)
    return kept | {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ASKPASS": "true",  # which says nothing
        "SSH_ASKPASS": "true",
    }
