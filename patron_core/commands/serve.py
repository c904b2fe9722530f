"""Serve the lab on one port: notebooks as apps, and the API, for those who have the link or a token."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from pydantic import Field

from patron_core import settings
from patron_core.server.run import DEFAULT_PORT, Address, serve
from patron_core.ui.script import Arguments, open_command


class ServeArguments(Arguments):
    port: int = Field(default=DEFAULT_PORT, ge=0, le=65535, description="port; 0: any that is free")
    host: str = Field(default="127.0.0.1", description="address to listen at; beyond this machine with TLS only")
    behind_proxy: str = Field(default="", description="https://... at which a proxy with TLS makes it known")
    tls_cert: str = Field(default="", description="file with the certificate, to speak TLS itself")
    tls_key: str = Field(default="", description="file with its key")


def main(argv: Sequence[str]) -> NoReturn:
    session = open_command(ServeArguments, argv, prog="serve", description=__doc__ or "")
    args = session.args
    address = Address(
        host=args.host, port=args.port, public_url=args.behind_proxy, tls_cert=args.tls_cert, tls_key=args.tls_key
    )

    def say(link: str) -> None:
        session.emit({"link": link}, f"Patron is at\n\n    {link}\n\nWho has this link acts as you. Ctrl-C ends it.")

    session.call(serve, address, settings.shipped("notebooks"), say=say)
    logging.shutdown()
    sys.stdout.flush()
    # kernels are threads that may be in the middle of a cell and wait for nothing: what must last is in the store
    os._exit(0)
