"""What the store costs: opening, listing 10,000 runs, changing state, and balances over 100,000 entries. Prints JSON.
Each figure is the best of several, since a busy machine only ever adds.

python tests/bench/store.py                      # SQLite in a temporary folder
python tests/bench/store.py postgresql://...     # an empty database
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from patron_core.states import RunState
from patron_core.store import Store, attempts, leases, ledger, runs
from patron_core.store.schema import entries, transfers
from patron_core.store.schema import runs as runs_table

NUM_RUNS = 10_000
NUM_TRANSFERS = 50_000  # two entries each
SPEC = {"recipe": {"depth": 12, "extra": list(range(60))}, "data": {"name": "climbmix", "shards": ["x" * 40] * 10}}


def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else f"sqlite:///{tempfile.mkdtemp()}/patron.db"
    store, fresh_s = _timed(lambda: Store.open(url))
    figures: dict[str, Any] = {"database": store.dialect, "open_fresh_ms": _ms(fresh_s)}
    figures["open_migrated_ms"] = _ms(min(_timed(lambda: Store.open(url).close())[1] for _ in range(20)))
    figures["import_ms"] = _ms(min(_import_s() for _ in range(3)))
    figures |= {"runs": NUM_RUNS, **_listing(store)}
    figures |= _changes(store)
    figures |= {"entries": 2 * NUM_TRANSFERS, **_balances(store)}
    store.close()
    print(json.dumps(figures, indent=1))


def _listing(store: Store) -> dict[str, float]:
    template = {
        "project": "bench", "workload": "trainer", "spec": SPEC, "estimate": SPEC, "spec_hash": "h" * 64,
        "executor": "local", "run_dir": "/r", "detail": "", "failures": 0, "actor": "bench",
    }  # fmt: skip
    states = list(RunState)
    rows = [
        {**template, "id": f"r{n:010d}", "name": f"run {n}", "key": f"k{n}", "state": states[n % len(states)].value}
        | {"created_at": float(n), "updated_at": float(n)}
        for n in range(NUM_RUNS)
    ]
    with store.begin() as conn:
        conn.execute(sa.insert(runs_table), rows)
    calls: dict[str, Callable[[], Any]] = {
        "list_summaries_all_ms": lambda: runs.list_summaries(store, limit=None),
        "list_summaries_100_ms": lambda: runs.list_summaries(store, project="bench"),
        "list_summaries_100_failed_ms": lambda: runs.list_summaries(store, states=[RunState.FAILED]),
        "list_summaries_text_ms": lambda: runs.list_summaries(store, text="run 77"),
        "list_runs_100_ms": lambda: runs.list_runs(store, project="bench"),
        "list_runs_all_ms": lambda: runs.list_runs(store, limit=None),
        "get_run_by_id_ms": lambda: runs.get_run(store, "r0000004711"),
        "get_run_by_name_ms": lambda: runs.get_run(store, "run 4711"),
        "get_run_by_prefix_ms": lambda: runs.get_run(store, "r000000999"[:9] + "9" + "9"),
    }
    return {name: _repeat_ms(call) for name, call in calls.items()}


def _changes(store: Store) -> dict[str, float]:
    drafts = iter(runs.list_runs(store, states=[RunState.DRAFT], limit=None))

    def transition() -> None:
        with store.begin() as conn:
            run_id = next(drafts).id
            runs.transition(conn, run_id, old=RunState.DRAFT, new=RunState.DRYRUN, actor="bench", now=1.0)

    def lease() -> None:
        leases.acquire(store, "bench", holder="bench", ttl_s=1.0)

    return {"transition_ms": _repeat_ms(transition, 100), "lease_ms": _repeat_ms(lease, 100)}


def _balances(store: Store) -> dict[str, float]:
    """One run that was charged tens of thousands of times: the worst that a wallet and a hold can be."""
    run = runs.get_run(store, "r0000000003")
    with store.begin() as conn:
        ledger.deposit(conn, project="bench", usd_micros=10**9, key="deposit", actor="bench", now=1.0)
        ledger.hold(conn, run, 10**8, key="hold", actor="bench", now=1.0)
        attempt = attempts.create(conn, run, kind="train", usd_micros_per_hour=1, price={}, now=1.0)
        shared = {
            "project": "bench", "kind": "charge", "usd_micros": 1, "asked_usd_micros": 1, "source": f"hold:{run.id}",
            "target": f"spent:{run.id}", "run_id": run.id, "attempt_id": attempt.id, "memo": "", "actor": "meter",
        }  # fmt: skip
        numbers = range(10, NUM_TRANSFERS + 10)
        conn.execute(sa.insert(transfers), [{**shared, "id": n, "key": f"c{n}", "time": float(n)} for n in numbers])
        for book, usd_micros in (("hold", -1), ("spent", 1)):
            line = {"project": "bench", "book": book, "account": f"{book}:{run.id}", "usd_micros": usd_micros}
            conn.execute(sa.insert(entries), [{**line, "transfer_id": n} for n in numbers])
        if store.dialect == "postgresql":
            conn.execute(sa.text("SELECT setval(pg_get_serial_sequence('transfers', 'id'), 10000000)"))
    totals = iter(range(NUM_TRANSFERS + 1, NUM_TRANSFERS + 1000))

    def charge() -> None:
        with store.begin() as conn:
            ledger.charge_up_to(conn, run, attempt.id, next(totals), now=2.0)

    calls: dict[str, Callable[[], Any]] = {
        "charge_ms": charge,
        "wallet_ms": lambda: ledger.wallet(store, "bench"),
        "run_money_ms": lambda: ledger.run_money(store, run.id),
        "statement_100_ms": lambda: ledger.statement(store, "bench", 100),
        "verify_ms": lambda: ledger.verify(store),
    }
    figures = {name: _repeat_ms(call) for name, call in calls.items()}
    assert ledger.verify(store) == []
    return figures


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    return call(), time.perf_counter() - began


def _repeat_ms(call: Callable[[], Any], times: int = 7) -> float:
    return _ms(min(_timed(call)[1] for _ in range(times)))


def _import_s() -> float:
    code = "import time; t = time.perf_counter(); import patron_core.store; print(time.perf_counter() - t)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)


if __name__ == "__main__":
    main()
