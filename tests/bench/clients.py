"""Fifty clients of one server for a minute: how long reads take, and whether money and notes add up. Prints JSON.

    python -m tests.bench.clients [--clients 50] [--seconds 60]

Each client asks one thing after the other: mostly reads (a list, a run, the lab, the wallet, notes, `me`), now and then
a deposit or a note under a key of its own, and one note that all revise: of each revision one writer is told that it
is written, and the others that somebody was first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from patron_core import verbs
from patron_core.client import ApiError, AsyncClient
from patron_core.lifecycle import post
from patron_core.store import Store, leases, ledger, notes, tokens
from patron_core.verbs.spec_door import LOCAL_SPEC

RUNS, DEPOSIT = 200, 1_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PATRON_HOME"] = folder
        store, secret, shared, run_ids = _lab()
        command = [sys.executable, "-m", "patron_core.commands", "serve", "--port", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        base = next(line.strip().split("/login")[0] for line in server.stdout if "/login?ticket=" in line)
        try:
            took, did = asyncio.run(_load(base, secret, shared, run_ids, args.clients, args.seconds))
        finally:
            server.terminate()
            server.wait(timeout=30)
        print(json.dumps(_report(store, shared, took, did, args), indent=1))
        store.close()
    return 0


def _lab() -> tuple[Store, str, str, list[str]]:
    """A lab with runs, in which nobody works beside the clients."""
    store = Store.open()
    for each in (post.SUPERVISOR, post.MIRROR):
        leases.acquire(store, each.lease(), holder="bench", ttl_s=1e6)
        leases.acquire(store, each.name, holder="bench", ttl_s=1e6)
    spec = {**LOCAL_SPEC, "depth": 1, "num_steps": 40}
    made = [verbs.plan(store, spec=spec, name=f"run {number}", actor="bench").id for number in range(RUNS)]
    _, secret = tokens.make(
        store, name="person", scopes=("admin",), expires_at=time.time() + 3600, actor="bench", now=time.time()
    )
    return store, secret, verbs.write_note(store, project="lab", body="0", actor="bench").id, made


async def _load(
    base: str, secret: str, shared: str, run_ids: list[str], clients: int, seconds: float
) -> tuple[dict[str, list[float]], Counter[str]]:
    took: dict[str, list[float]] = {}
    did: Counter[str] = Counter()
    end = time.monotonic() + seconds

    async def one(number: int) -> None:
        dice = random.Random(number)
        async with AsyncClient(base, secret) as lab:
            turn = 0
            while time.monotonic() < end:
                turn += 1
                name, call = _choice(lab, dice, f"{number}-{turn}", shared, run_ids)
                began = time.monotonic()
                try:
                    await call
                    did[name] += 1
                except ApiError as error:
                    did[f"{name} {error.code}"] += 1
                took.setdefault(name, []).append(time.monotonic() - began)
                await asyncio.sleep(dice.uniform(0.5, 1.5))  # somebody reads what came

    await asyncio.gather(*(one(number) for number in range(clients)))
    return took, did


def _choice(lab: AsyncClient, dice: random.Random, key: str, shared: str, run_ids: list[str]) -> tuple[str, Any]:
    draw = dice.random()
    if draw < 0.05:
        return "deposit", lab.send("POST", "/api/deposits", body={"usd_micros": DEPOSIT}, key=key)
    if draw < 0.10:
        return "note", lab.note(f"by {key}", key=key)
    if draw < 0.15:
        return "revise", _revise(lab, shared)
    reads = {
        "runs": lambda: lab.runs(limit=50),
        "run": lambda: lab.run(dice.choice(run_ids)),
        "lab": lambda: lab.send("GET", "/api/lab"),
        "wallet": lab.wallet,
        "notes": lambda: lab.notes(limit=20),
        "me": lab.me,
    }
    name = dice.choice(sorted(reads))
    return name, reads[name]()


async def _revise(lab: AsyncClient, shared: str) -> None:
    """Add one to the number that it read; a Conflict where somebody else did."""
    read = await lab.send("GET", f"/api/notes/{shared}")
    body = {"body": str(int(read["body"]) + 1), "base_revision": read["revision"]}
    await lab.send("PUT", f"/api/notes/{shared}", body=body)


def _report(
    store: Store, shared: str, took: dict[str, list[float]], did: Counter[str], args: argparse.Namespace
) -> dict[str, Any]:
    reads = [seconds for name, each in took.items() if name not in ("deposit", "note", "revise") for seconds in each]
    writes = [seconds for name in ("deposit", "note", "revise") for seconds in took.get(name, ())]
    deposited = ledger.wallet(store, "lab").deposited_usd_micros
    written = notes.get(store, shared)
    return {
        "clients": args.clients,
        "seconds": args.seconds,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "calls": sum(map(len, took.values())),
        "reads": _times(reads),
        "writes": _times(writes),
        "p95_ms": {name: _times(each)["p95_ms"] for name, each in sorted(took.items())},
        "did": dict(sorted(did.items())),
        "ledger_is_exact": deposited == DEPOSIT * did["deposit"] and ledger.verify(store) == [],
        "no_update_was_lost": int(written.body) == did["revise"] == written.revision - 1,
        "database_mb": round(
            sum(file.stat().st_size for file in Path(os.environ["PATRON_HOME"]).glob("*.db*")) / 1e6, 1
        ),
    }


def _times(each: list[float]) -> dict[str, float | int]:
    if len(each) < 2:
        return {"calls": len(each), "p50_ms": 0.0, "p95_ms": 0.0}
    cuts = statistics.quantiles(each, n=20)
    return {"calls": len(each), "p50_ms": round(1000 * cuts[9], 1), "p95_ms": round(1000 * cuts[18], 1)}


if __name__ == "__main__":
    sys.exit(main())
