"""What a process at a post writes into its log."""

from __future__ import annotations

import logging

from trainer.contract.masking import mask
from trainer.contract.words import printable


class Masked(logging.Formatter):
    """Of a library's words, too: what a traceback quotes may be a URL with a password."""

    def format(self, record: logging.LogRecord) -> str:
        return mask(printable(super().format(record)))


def begin() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(Masked("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.WARNING)
