"""Runs in any state of their way, with money held and a wallet that never is the limit."""

from __future__ import annotations

from patron_core import verbs
from patron_core.states import RunState
from patron_core.store import Run, Store, ledger, runs

SPEC = {"depth": 1, "vocab_size": 512, "sequence_len": 64, "num_steps": 10, "batch_tokens": 64}
AMOUNT = 100_000
ALL_AT_ONCE = 50
WAY = (RunState.DRYRUN, RunState.AWAITING_FUNDING, RunState.FUNDED, RunState.LAUNCHING, RunState.RUNNING)


def made(store: Store, state: RunState, *, max_usd_micros: int | None = None, held: int = AMOUNT) -> Run:
    """A run that came to `state` with `held` micro-dollars, and a wallet that never is the limit."""
    verbs.deposit(store, usd_micros=100 * ALL_AT_ONCE * AMOUNT, key="rich", actor="ada", now=1.0)
    run = verbs.plan(store, spec=SPEC, actor="ada", max_usd_micros=max_usd_micros, now=1.0)
    if state is RunState.DRAFT:
        return run
    with store.begin() as conn:
        ledger.hold(conn, run, held, key=f"first:{run.id}", actor="ada", now=1.0)
        for new in WAY[: WAY.index(state) + 1]:
            run = runs.transition(conn, run.id, old=run.state, new=new, actor="ada", now=1.0)
    return run
