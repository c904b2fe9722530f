"""Which machine this is. Local runs belong to it: it alone starts, judges and buries them.

A machine is known by a random id, made once and kept in PATRON_HOME/hosts/NAME.json, with its host name and its boot.
Nothing is derived from hardware or from /etc/machine-id, which containers and clones of an image share. Of the machines
that share a home on a network file system each has a file of its own, by its host name; one that was renamed is known
by its boot. Two homes on one machine are two hosts: neither sees the other's job folders.

A home that is copied to another machine gets a new id there, unless both have the same host name. A container whose
host name is made anew with each start needs a fixed one (docker run --hostname).
"""

from __future__ import annotations

import fcntl
import functools
import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from patron_core import settings
from patron_core.executors import processes
from patron_core.rundir.files import read_json, write_json
from patron_core.store.records import Host
from patron_core.store.runs import new_id


def this_host() -> Host:
    """This machine, with its home and its user. Makes its id where it has none yet."""
    return _known(settings.home(), os.uname().nodename, processes.boot_id())


@functools.cache
def _known(home: Path, name: str, boot_id: str) -> Host:
    """Read once by a process: neither name nor boot changes unnoticed, and the file only with them."""
    return Host(id=_id_in(home, name, boot_id), name=name, user=user_name(), home=str(home), boot_id=boot_id)


def user_name() -> str:
    """The account's name, or its number where it has none, in a container."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


def _id_in(home: Path, name: str, boot_id: str) -> str:
    if home == settings.home():
        settings.make_home()
    folder = home / "hosts"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    mine = folder / f"{name}.json"
    known = _entry(mine)
    if known is not None and known.get("boot_id") == boot_id:
        return str(known["id"])
    with _alone(folder):
        known = _entry(mine) or _renamed(folder, mine, boot_id) or {"id": new_id("h")}
        write_json(mine, {"id": known["id"], "name": name, "boot_id": boot_id})
        return str(known["id"])


def _entry(path: Path) -> dict[str, Any] | None:
    """What the file says; None where there is none, or one that cannot be read."""
    values = read_json(path)
    return values if values and isinstance(values.get("id"), str) else None


def _renamed(folder: Path, mine: Path, boot_id: str) -> dict[str, Any] | None:
    """This machine under its name of before."""
    for path in sorted(folder.glob("*.json")):
        if (known := _entry(path)) is not None and known.get("boot_id") == boot_id:
            path.rename(mine)
            return known
    return None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Among the processes of this machine; others have files of their own."""
    with (folder / ".lock").open("a") as file:
        with suppress(OSError):  # a network file system that knows no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
