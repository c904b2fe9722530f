"""Look at runs: one in full, all of them in lines, and wait for one. Reading never changes a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from patron_core.lifecycle import ownership, supervisor, trouble
from patron_core.lifecycle.evidence import words
from patron_core.lifecycle.observe import attempt_dir
from patron_core.rundir.record import record_of
from patron_core.rundir.rundir import Event, RunDir, logged_of
from patron_core.states import ACTIVE, TERMINAL, EndReason, RunState, why
from patron_core.store import Store, attempts, ledger, runs
from patron_core.store.records import Attempt, Run, RunEvent, RunMoney, RunSummary
from patron_core.verbs.curves import shown_directory
from patron_core.verbs.health import Health, health, host_dict
from patron_core.verbs.next_steps import command, next_step
from patron_core.verbs.refusals import newest_refusal

ATTENTION = frozenset({RunState.AWAITING_FUNDING, RunState.PAUSED, RunState.FAILED, RunState.FUNDED})
RESTING = TERMINAL | {RunState.PAUSED, RunState.AWAITING_FUNDING, RunState.FUNDED, RunState.DRAFT}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a model made of a prompt at the end of its run."""

    prompt: str
    text: str  # what follows the prompt
    end: str  # why it ended there


@dataclass(frozen=True, kw_only=True)
class RunView:
    """Everything about a run that a person watching it wants to see."""

    run: Run
    money: RunMoney
    attempts: list[Attempt]
    history: list[RunEvent]
    step: int  # completed, on the true history
    num_steps: int | None
    metrics: dict[str, float]  # the newest value of each
    val_bpb: float | None
    checkpoint_step: int | None
    eta_s: float | None
    phase: str  # what the workload did last: data, tokenizer, steps, eval ...
    health: Health  # of those who work for it
    place: str  # which other machine it runs on or belongs to, or whose account pays for a rented one; else empty
    warnings: list[str]
    samples: list[Sample]  # the latest
    logged: dict[str, dict[str, Any]]  # what foreign code says of itself: params, tags, artifacts with their bytes
    sentence: str
    next: str

    @property
    def refused(self) -> dict[str, Any] | None:
        """What was last asked of it and not done, where nothing happened since: {verb, message, next}."""
        return newest_refusal(self.history)

    @property
    def zone(self) -> str | None:
        """Where its newest machine was rented."""
        return (attempts.zone_of(self.attempts[-1]) or None) if self.attempts else None

    def to_dict(self) -> dict[str, Any]:
        return {
            "run": self.run.id,
            "name": self.run.name,
            "project": self.run.project,
            "state": self.run.state.value,
            "reason": self.run.reason.value if self.run.reason else None,
            "sentence": self.sentence,
            "refused": self.refused,
            "step": self.step,
            "num_steps": self.num_steps,
            "val_bpb": self.val_bpb,
            "metrics": self.metrics,
            "checkpoint_step": self.checkpoint_step,
            "eta_s": self.eta_s,
            "held_usd_micros": self.money.held_usd_micros,
            "charged_usd_micros": self.money.charged_usd_micros,
            "charged_by_kind_usd_micros": self.money.by_kind_usd_micros,
            "released_usd_micros": self.money.released_usd_micros,
            "attempts": [
                {
                    "id": a.id,
                    "state": a.state,
                    "reason": a.reason.value if a.reason else None,
                    "exit_code": a.exit_code,
                    "evidence": words(a.evidence, a.exit_code),
                    "why": why(a.reason, a.evidence) if a.reason else None,
                    "charged_s": a.charged_s,
                    "charged_usd_micros": a.charged_usd_micros,
                }
                for a in self.attempts
            ],
            "owner": self.run.actor,
            "host": host_dict(self.health.host),
            "zone": self.zone,
            "payer": self.health.payer,
            "supervisor": self.health.supervisor,
            "mirror_lag_s": self.health.mirror_lag_s,
            "warnings": self.warnings,
            "samples": [asdict(sample) for sample in self.samples],
            "logged": self.logged,
            "next": self.next,
        }


def view(store: Store, run_id: str) -> RunView:
    """Raises NotFound for a run that does not exist; a run directory that is missing is shown as such."""
    with store.read():
        run = runs.get_run(store, run_id)
        made = attempts.for_run(store, run.id)
        around = health(store, run)
        history = runs.events(store, run.id)
        money = ledger.run_money(store, run.id)
    directory = shown_directory(run, made)
    record = record_of(directory)
    newest, damaged = directory.look_for_checkpoint()
    latest, step, val_bpb = record.latest()
    num_steps = next((start.data.get("num_steps") for start in reversed(record.marks("start"))), None)
    warnings = [str(said.data.get("message", "")) for said in record.marks("warning")]
    warnings += [f"the checkpoint of step {step} is damaged, and passed over" for step in damaged[:3]]
    if not directory.exists() and (run.result is not None or (around.is_elsewhere and made)):
        where = f"on {around.host.name}" if around.host and around.is_elsewhere else "missing"
        warnings.append(f"the run directory {run.run_dir} is {where}")
    place = _place(run, around)
    if (noted := trouble.standing(history)) is not None:
        warnings.append(noted.message)
    step_s = latest.get("train/step_s")
    running = run.state is RunState.RUNNING and num_steps and step_s
    return RunView(
        run=run,
        money=money,
        attempts=made,
        history=history,
        step=step,
        num_steps=num_steps,
        metrics=latest,
        val_bpb=val_bpb if val_bpb is not None else (run.result or {}).get("val_bpb"),
        checkpoint_step=newest.step if newest else None,
        eta_s=(num_steps - step) * step_s if running and num_steps and step_s else None,
        phase=record.phase(),
        health=around,
        warnings=[*warnings[-5:], *around.warnings],
        samples=_samples(record.marks("sample")),
        logged=logged_of(record.marks("logged")),
        place=place,
        sentence=_sentence(run, made[-1] if made else None) + (f" It {place}." if place else ""),
        next=_next(run, made[-1] if made else None, history, is_elsewhere=around.is_elsewhere),
    )


def find_run(store: Store, words: str) -> Run:
    """The run of an id, a name or the beginning of an id. Raises NotFound."""
    return runs.get_run(store, words)


def log_tail(store: Store, run_id: str, lines: int = 40) -> str:
    """The last lines that the newest attempt wrote; nothing before the first."""
    run = runs.get_run(store, run_id)
    made = attempts.for_run(store, run.id)
    return RunDir(attempt_dir(run, made[-1])).log_tail(made[-1].id, lines) if made else ""


def overview(store: Store, *, project: str | None = None, limit: int = 50, text: str = "") -> list[RunSummary]:
    """Newest first; those that have the text in their name or id. Those in `ATTENTION` wait for a person."""
    return list(runs.list_summaries(store, project=project, limit=limit, text=text))


def num_runs(store: Store, project: str | None = None) -> int:
    """In a project, or in all."""
    counts = runs.projects(store)
    return sum(counts.values()) if project is None else counts.get(project, 0)


_PRESSING = (  # what somebody should see first
    {RunState.RECOVERING},
    {RunState.RUNNING, RunState.LAUNCHING, RunState.DRYRUN},
    {RunState.PAUSED, RunState.FUNDED, RunState.AWAITING_FUNDING},
    {RunState.FAILED},
)


def most_pressing(found: Iterable[RunSummary]) -> RunSummary | None:
    """Of runs, newest first: one in trouble, else one that works, else one that waits for a person, else the newest."""
    every = list(found)
    ranked = (next((run for run in every if run.state in states), None) for states in _PRESSING)
    return next((run for run in ranked if run is not None), every[0] if every else None)


def wait(
    store: Store,
    run_id: str,
    *,
    until: Collection[RunState] = RESTING,
    timeout_s: float = float("inf"),
    every_s: float = 1.0,
    on_view: Callable[[RunView], None] | None = None,
) -> RunView:
    """Watch until the run rests, or `timeout_s` has passed. A supervisor that died meanwhile is started again.

    The run does not depend on this: closing the notebook or killing the script leaves it running.
    """
    end = time.monotonic() + timeout_s
    while True:
        supervisor.ensure_running(store)
        seen = view(store, run_id)
        if on_view is not None:
            on_view(seen)
        if (seen.run.state in until and not seen.run.stop_requested) or time.monotonic() >= end:
            return seen
        time.sleep(every_s)


def exit_code(seen: RunView, *, pause: bool = False, cancel: bool = False) -> int:
    """Of a script that followed the run: 0 where it came to what was asked for, 6 where it rests elsewhere, 7 where it
    goes on. A dryrun is asked to bring the run as far as waiting for money."""
    if seen.run.state not in RESTING or seen.run.stop_requested:
        return 7
    wanted = {RunState.SUCCEEDED, RunState.AWAITING_FUNDING}
    wanted |= {RunState.PAUSED} if pause else set()
    wanted |= {RunState.CANCELLED} if cancel else set()
    return 0 if seen.run.state in wanted else 6


STATE_SENTENCE: dict[RunState, str] = {
    RunState.DRAFT: "Planned; nothing has been spent.",
    RunState.DRYRUN: "A short burst is proving the plan on the real machine.",
    RunState.AWAITING_FUNDING: "Proven by a dryrun; waiting for money.",
    RunState.FUNDED: "Its money is held; ready to launch.",
    RunState.LAUNCHING: "Starting a machine.",
    RunState.RUNNING: "Training.",
    RunState.RECOVERING: "Its machine went away; it resumes from the newest checkpoint.",
    RunState.PAUSED: "Paused.",
    RunState.SUCCEEDED: "Finished.",
    RunState.FAILED: "Failed.",
    RunState.CANCELLED: "Cancelled.",
}


_GOES_ON_WITH_MONEY = frozenset({EndReason.OUT_OF_FUNDS, EndReason.DEADLINE, EndReason.PAUSED})


def _sentence(run: Run, newest: Attempt | None) -> str:
    """Why it is where it is. A dryrun that completed is no end, but the proof that it can begin."""
    waits = run.state is RunState.AWAITING_FUNDING and run.reason is EndReason.COMPLETED
    if run.reason is None or waits:
        return STATE_SENTENCE[run.state]
    said = why(run.reason, newest.evidence if newest and newest.reason is run.reason else None)
    if run.state is RunState.DRAFT and run.reason is EndReason.OUT_OF_FUNDS:
        return f"{said} Another dryrun holds twice as much."
    is_paused = run.state is RunState.PAUSED and run.reason in _GOES_ON_WITH_MONEY
    return f"{said} Fund it again to go on." if is_paused else said


def _place(run: Run, around: Health) -> str:
    if around.is_elsewhere and run.state not in TERMINAL:
        return ownership.words(around.host, "runs on" if run.state in ACTIVE else "belongs to")
    return f"is rented by {around.payer}" if around.payer and run.state in ACTIVE else ""


def _next(run: Run, newest: Attempt | None, history: list[RunEvent], *, is_elsewhere: bool) -> str:
    """After a refusal what it said is to be done, not what was refused; what another machine's run waits for can be
    done there only."""
    if is_elsewhere and run.state in RESTING - TERMINAL:
        return command("lab", "--project", run.project)
    refused = newest_refusal(history)
    if refused is not None and run.state not in TERMINAL and str(refused["next"]).startswith("patron "):
        return str(refused["next"])
    return next_step(run, newest.evidence.get("last_word") if newest else None)


def _samples(events: list[Event]) -> list[Sample]:
    """Those of the newest; what is no text there is left out."""
    said = events[-1].data if events else {}
    columns = [said.get(name) for name in ("prompts", "texts", "ends")]
    rows = zip(*(column if isinstance(column, list) else [] for column in columns), strict=False)
    return [
        Sample(prompt=prompt, text=text, end=end)
        for prompt, text, end in rows
        if isinstance(prompt, str) and isinstance(text, str) and isinstance(end, str)
    ]


def burn_usd_micros_per_hour(store: Store) -> int:
    """What all attempts that have a machine cost together, an hour. Looking for one costs nothing."""
    active = {run.id: run for run in runs.active_runs(store) if run.state in ACTIVE}
    alive = [a for a in attempts.live(store) if a.run_id in active]
    return sum(a.usd_micros_per_hour for a in alive if _has_machine(active[a.run_id], a))


def _has_machine(run: Run, attempt: Attempt) -> bool:
    """Submitted is not started: a machine to be rented may still be looked for, until the first second is charged."""
    if attempt.state != "submitted" or run.state is RunState.RECOVERING:
        return False
    return run.state is RunState.RUNNING or attempt.executor == "local" or attempt.charged_s > 0
