"""Secrets of this process's environment, and passwords in URLs, as ***: in whatever is shown, mirrored or exported.

A workload may print its own environment; an error may quote a URL. What counts as a secret is told by the name of its
variable, and by a password in its URL. A value of fewer than eight characters is none: it would be found everywhere.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import unquote

from trainer.contract import urls

MIN_CHARS = 8
_WORDS = {
    "SECRET",
    "TOKEN",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "CREDENTIAL",
    "CREDENTIALS",
    "KEY",
    "APIKEY",
    "WEBHOOK",
}
_WHOLE_WORDS = {"PASS", "PWD"}  # how others end, too: BYPASS, OLDPWD
_NO_SECRET = {"FILE", "PATH", "DIR", "NAME", "URI", "URL"}  # how the name of a place ends
_IN_URL = re.compile(r"://[^\s'\"/@:]*:([^\s'\"]*)@|[?&;]password=([^&;\s'\"]+)", re.IGNORECASE)

T = TypeVar("T")


def mask(text: str) -> str:
    """`text` without the secrets that are known here."""
    return _mask(text, _pattern(tuple(os.environ.items())))


def masked(value: T) -> T:
    """A JSON value whose texts are masked, at any depth. Names of fields stay."""
    found: T = _masked(value, _pattern(tuple(os.environ.items())))
    return found


def _mask(text: str, secrets: re.Pattern[str] | None) -> str:
    text = urls.mask(text)
    return text if secrets is None else secrets.sub(urls.MASK, text)


def _masked(value: Any, secrets: re.Pattern[str] | None) -> Any:
    if isinstance(value, str):
        return _mask(value, secrets)
    if isinstance(value, Mapping):
        return {name: _masked(inner, secrets) for name, inner in value.items()}
    return [_masked(inner, secrets) for inner in value] if isinstance(value, list | tuple) else value


def is_secret(name: str, value: str) -> bool:
    """Whether code of others may not be given it: of any length, and unless it is a file that lies here."""
    is_place = value.startswith(("/", "~")) and os.path.exists(os.path.expanduser(value))  # noqa: PTH110, PTH111
    return (_names_one(name) and not is_place) or _IN_URL.search(value) is not None


def known_secrets(environ: tuple[tuple[str, str], ...]) -> set[str]:
    found = set()
    for name, value in environ:
        if _names_one(name) and not value.startswith(("/", "~")):
            found.add(value.strip())
        for match in _IN_URL.finditer(value):
            found |= {part for secret in match.groups() if secret for part in (secret, unquote(secret))}
    return {value for value in found if len(value) >= MIN_CHARS}


def _names_one(name: str) -> bool:
    words = name.upper().split("_")
    is_one = any(word.endswith(tuple(_WORDS)) for word in words) or (len(words) > 1 and _WHOLE_WORDS & set(words))
    return bool(is_one) and words[-1] not in _NO_SECRET


@functools.lru_cache(maxsize=4)
def _pattern(environ: tuple[tuple[str, str], ...]) -> re.Pattern[str] | None:
    secrets = sorted(known_secrets(environ), key=len, reverse=True)  # one may be part of another
    return re.compile("|".join(map(re.escape, secrets))) if secrets else None
