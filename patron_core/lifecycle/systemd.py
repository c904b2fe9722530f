"""A systemd user unit, so that supervision comes back after a reboot even if nobody opens a notebook."""

from __future__ import annotations

import os
import shlex
import sys

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from patron_core import settings

_HEAD = """\
# Patron's supervisor looks once at each boot, and stays for as long as a run needs it. Install:
#   mkdir -p ~/.config/systemd/user
#   patron supervise --install > ~/.config/systemd/user/patron.service
#   systemctl --user daemon-reload && systemctl --user enable --now patron.service
#   loginctl enable-linger    # else it starts with your first login, not with the machine
"""
_SECRETS = """\
# What may hold a password is not written here. Put it into a file that only you can read:
#   {file}
#   with lines like NAME=value for: {names}
EnvironmentFile={file}
"""


def unit() -> str:
    """The unit for this environment: its settings, and none of its secrets."""
    names = sorted(name for name in os.environ if name.startswith("PATRON_") or name == "MLFLOW_TRACKING_URI")
    secret = [name for name in names if _is_secret(os.environ[name], name)]
    lines = [f"Environment={_quoted(name)}" for name in names if name not in secret]
    if secret:
        file = str(settings.home() / "secrets.env").replace("%", "%%")
        lines.append(_SECRETS.format(file=file, names=", ".join(secret)).rstrip())
    program = shlex.quote(sys.executable).replace("%", "%%")
    return "\n".join(
        [
            _HEAD,
            "[Unit]",
            "Description=Patron supervisor",
            "After=network-online.target",
            "",
            "[Service]",
            f"ExecStart={program} -P -m {__package__}.supervisor",
            "Restart=on-failure",
            "RestartSec=30",
            *lines,
            "",
            "[Install]",
            "WantedBy=default.target",
        ]
    )


def _is_secret(value: str, name: str) -> bool:
    """By its name, or since it is a URL with a password in it, or one that nobody can read."""
    if any(word in name for word in ("TOKEN", "SECRET", "PASSWORD", "KEY")):
        return True
    if "://" not in value:
        return False
    try:
        url = make_url(value)
    except ArgumentError:
        return True
    return url.password is not None or "password" in url.query


def _quoted(name: str) -> str:
    """As systemd reads it: % and \\ and quotes stand for themselves."""
    value = settings.for_children()[name].replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{name}={value}"'
