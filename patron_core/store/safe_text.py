"""A column type for text of any origin."""

from __future__ import annotations

import re

from sqlalchemy import Dialect, Text, TypeDecorator


class SafeText(TypeDecorator[str]):
    """Text that every database takes: PostgreSQL knows no NUL, and no database a lone surrogate.

    Where Python was made to take the command line for ASCII, it hands on the bytes of a UTF-8 letter as surrogates,
    which become that letter again.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None or value.isascii():
            return None if value is None else value.replace("\x00", "")
        bytes_again = _ESCAPED.sub(_as_letters, value.replace("\x00", ""))
        return bytes_again.encode("utf-8", "replace").decode("utf-8")


_ESCAPED = re.compile("[\udc80-\udcff]+")


def _as_letters(escaped: re.Match[str]) -> str:
    return escaped[0].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
