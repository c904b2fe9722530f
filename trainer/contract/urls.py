"""Secrets in URLs: a bucket's are refused, since its place is written down everywhere; all others are masked. Pure."""

from __future__ import annotations

import re

MASK = "***"
_SECRET = r"(?:pass(?:word|wd)?|pwd|secret|token|signature|credential|api_?key|access_?key|session_?key)"
_PARAMETER = re.compile(rf"([?&;][^=&;\s'\"]*{_SECRET}[^=&;\s'\"]*=)[^&;\s'\"]+", re.IGNORECASE)
# up to the last @ before whitespace or a quote: a password may hold / and @, which should have been written as %XX
_USER = re.compile(r"([a-z][a-z0-9+.-]*://)([^\s'\"/@:]*)(?:(:)([^\s'\"]*))?@", re.IGNORECASE)
_NAMES = re.compile(r"(?:postgres|mysql|mariadb|sqlite|ssh)", re.IGNORECASE)  # where a user alone is no secret


def mask(text: str) -> str:
    """`text` with the passwords, keys and tokens of the URLs in it as ***. Cheap where there is no URL."""
    if "://" not in text:
        return text
    return _PARAMETER.sub(rf"\1{MASK}", _USER.sub(_masked, text))


def secret_of(url: str) -> str | None:
    """What is wrong with a URL that will be written down, without saying the secret; None: nothing."""
    if "://" not in url or mask(url) == url:
        return None
    return f"{mask(url)} holds a key or a password, and a place is written into the database and every log"


def _masked(found: re.Match[str]) -> str:
    scheme, user, colon, _ = found.groups()
    if colon:
        return f"{scheme}{user if _NAMES.match(scheme) else MASK}:{MASK}@"
    return found[0] if not user or _NAMES.match(scheme) else f"{scheme}{MASK}@"
