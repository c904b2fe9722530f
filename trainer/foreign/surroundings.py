"""What a foreign command is started in: an image, an environment of its own, or the one at hand; and its record.

Its process is given no secret of ours: of this process's variables those go on whose name says nothing of one, and none
of Patron's own.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.contract.exits import UserError
from trainer.contract.files import cache_folder
from trainer.contract.foreign import IMAGE_VARIABLE, Environment, ForeignSpec
from trainer.contract.keys import JOB_VARIABLE
from trainer.contract.masking import is_secret
from trainer.contract.spec import canonical_json
from trainer.contract.words import printable

_NOT_OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "UV_NO_SYNC", "PYTHONSAFEPATH")
_ASK_S = 20.0
_MAKE_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """How lines are run, and what is to be said of it."""

    how: str  # image, inside (of it already), lock, requirements, current
    said: str | None = None  # what was asked for and is not there
    python_folder: str | None = None  # of an environment, put first on the path
    image: str | None = None

    def argv(self, line: str, *, work: Path, variables: Mapping[str, str], name: str) -> list[str]:
        if self.image is None:
            return ["bash", "-c", line]
        words = ["docker", "run", "--rm", "--init", "--name", name, "--user", f"{os.getuid()}:{os.getgid()}"]
        # the same path inside: what it logs says where its artifacts are
        words += ["--volume", f"{work.parent}:{work.parent}", "--workdir", str(work)]
        words += ["--gpus", "all"] if shutil.which("nvidia-smi") else []
        # never by way of the client's own environment, whose PATH and HOME say what it runs here; none is a secret
        for key, value in variables.items():
            words += ["--env", f"{key}={value}"]
        return [*words, "--entrypoint", "bash", self.image, "-c", line]

    def environ(self, variables: Mapping[str, str]) -> dict[str, str]:
        found = harmless(os.environ) | (dict(variables) if self.image is None else {})
        if self.how == "inside":  # our own python is on the path of this machine's tasks
            ours = str(Path(sys.executable).parent)
            found["PATH"] = os.pathsep.join(p for p in found.get("PATH", "").split(os.pathsep) if p != ours)
        if self.python_folder and self.image is None:
            found["PATH"] = self.python_folder + os.pathsep + found.get("PATH", os.defpath)
        return found


def harmless(environ: Mapping[str, str]) -> dict[str, str]:
    """What may be known to code of others."""
    secret = {name for name, value in environ.items() if is_secret(name, value)}
    ours = {name for name in environ if name.startswith("PATRON_") and name != JOB_VARIABLE}
    return {name: value for name, value in environ.items() if name not in secret | ours | set(_NOT_OURS)}


def has_docker() -> bool:
    """Whether a container can be started here."""
    if not shutil.which("docker"):
        return False
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, timeout=_ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def find(environment: Environment) -> Surroundings:
    """What there is here for it, without making anything."""
    kind = environment.kind()
    if kind == "image" and os.environ.get(IMAGE_VARIABLE) == environment.image:
        return Surroundings(how="inside")
    if kind == "image" and has_docker():
        return Surroundings(how="image", image=environment.image)
    if kind in ("lock", "requirements"):
        return Surroundings(how=kind, python_folder=str(_folder_of(environment) / "bin"))
    said = f"no docker answers here: it runs in the environment at hand, not in {environment.image}"
    return Surroundings(
        how="current", said=said if kind == "image" else None, python_folder=str(Path(sys.executable).parent)
    )


def make(environment: Environment, work: Path) -> Surroundings:
    """What it asks for, made where it is not there yet; what is said while that is done goes to the log.

    Raises UserError with the last lines of what could not be installed.
    """
    found = find(environment)
    if found.how == "image":
        _run(["docker", "pull", "--quiet", str(found.image)], work, must=not _has_image(str(found.image)))
    if found.how in ("lock", "requirements"):
        _make_environment(environment, work)
    return found


def record(spec: ForeignSpec, found: Surroundings) -> dict[str, Any]:
    """environment.json. Its hash is that of a lock, of requirements, of an image by its digest, or of all packages."""
    of: dict[str, Any] = {"how": found.how}
    if found.how == "inside":
        of["image"] = spec.environment.image
    elif found.how == "image":
        of["image"] = _digest(str(found.image)) or found.image
    elif found.how in ("lock", "requirements"):
        of["lock"] = spec.environment.hash()
    else:
        of |= {"python": platform.python_version(), "packages_hash": _packages_hash()}
    hashed = hashlib.sha256(canonical_json({"sources": spec.sources, **of}).encode()).hexdigest()[:16]
    commit = {"git_commit": spec.origin["commit"]} if "commit" in spec.origin else {}
    return {"workload": spec.name, "sources": spec.sources, "platform": platform.platform(), **of, **commit} | {
        "hash": hashed
    }


def container_name(run_dir: Path) -> str:
    """One at a time for a run directory."""
    return "patron-" + hashlib.sha256(str(run_dir.absolute()).encode()).hexdigest()[:16]


def remove_container(name: str, found: Surroundings) -> None:
    """One that a killed process left running."""
    if found.how == "image":
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)


def _folder_of(environment: Environment) -> Path:
    return cache_folder() / "environments" / environment.hash()


def _make_environment(environment: Environment, work: Path) -> None:
    """Once for each content of a lock or of requirements."""
    folder = _folder_of(environment)
    whole = folder.with_suffix(".whole")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if whole.exists():
            return
        python = ["--python", environment.python] if environment.python else []
        uv = shutil.which("uv") or shutil.which(str(Path.home() / ".local" / "bin" / "uv"))  # where SkyPilot has it
        if environment.lock:
            if uv is None:
                raise UserError("its uv.lock needs uv, which is not on the path: install uv, or name an image")
            _run([uv, "sync", "--frozen", *python], work, UV_PROJECT_ENVIRONMENT=str(folder))
        else:
            plain = [sys.executable, "-m", "venv", "--clear", str(folder)]
            _run([uv, "venv", "--quiet", "--clear", *python, str(folder)] if uv else plain, work)
            if environment.requirements:
                lines = folder.with_suffix(".txt")
                lines.write_text("\n".join(environment.requirements) + "\n", encoding="utf-8")
                inside = str(folder / "bin" / "python")
                pip = [uv, "pip", "install", "--python", inside] if uv else [inside, "-m", "pip", "install"]
                _run([*pip, "-r", str(lines)], work)
        whole.touch()


def _run(command: list[str], work: Path, *, must: bool = True, **variables: str) -> None:
    print(printable(f"foreign: {shlex.join(command)}"), flush=True)
    try:
        done = subprocess.run(
            command,
            cwd=work,
            env=harmless(os.environ) | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_MAKE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{command[0]}: {error}") from error
    if done.returncode and must:
        said = (done.stderr or done.stdout).strip()[-1500:]
        raise UserError(f"what it runs in could not be made: {shlex.join(command)}: {said}")


def _has_image(image: str) -> bool:
    return subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode == 0


def _digest(image: str) -> str | None:
    form = "{{if .RepoDigests}}{{index .RepoDigests 0}}{{else}}{{.Id}}{{end}}"
    asked = ["docker", "image", "inspect", "--format", form, image]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None if done.returncode == 0 else None


def _packages_hash() -> str:
    found = sorted({f"{d.metadata['Name']}=={d.version}".lower() for d in importlib.metadata.distributions()})
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:16]
