"""A client of the API, for programs: synchronous and asynchronous, with one set of methods.

    with Client("http://127.0.0.1:8700", token) as lab:
        run = lab.plan({"depth": 2, "num_steps": 100}, key="first")["run"]
        lab.dryrun(run, key="first")
        lab.wait(run, until={"awaiting_funding"})

Only what may be sent twice is sent again: reads, and calls with a key. Errors are raised as ApiError.
"""

from __future__ import annotations

from patron_core.client.calls import ApiError
from patron_core.client.sending import AsyncClient, Client

__all__ = ["ApiError", "AsyncClient", "Client"]
