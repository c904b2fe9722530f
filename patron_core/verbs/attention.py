"""What waits for a person: which runs, why in words that fit their state, and the command that takes each further."""

from __future__ import annotations

from dataclasses import dataclass

from patron_core.states import RunState, why
from patron_core.store import Store, attempts, notes, runs
from patron_core.store.records import Run, RunFacts
from patron_core.verbs.next_steps import next_step
from patron_core.verbs.watch import ATTENTION

MOST_SHOWN = 30  # in words; how many more there are is said


@dataclass(frozen=True, kw_only=True)
class Waiting:
    run: RunFacts
    words: str
    next: str  # a command


def waiting_runs(store: Store, project: str) -> tuple[list[Waiting], list[RunFacts]]:
    """The newest with words, at most `MOST_SHOWN`, and all of them, newest first.

    A failed run that somebody wrote a note about waits no longer: what was learnt is written down.
    """
    found = runs.list_facts(store, project=project, states=ATTENTION, limit=None)
    noted = notes.runs_with_notes(store, [run.id for run in found if run.state is RunState.FAILED])
    left = [run for run in found if run.id not in noted]
    shown = {facts.id: facts for facts in left[:MOST_SHOWN]}
    whole = {run.id: run for run in runs.list_runs(store, ids=shown)}
    made = attempts.for_runs(store, shown)
    words = []
    for run_id, facts in shown.items():
        evidence = made[run_id][-1].evidence if made[run_id] else {}
        run = whole[run_id]
        next_is = next_step(run, evidence.get("last_word"))
        words.append(Waiting(run=facts, words=_words(run, evidence, next_is), next=next_is))
    return words, left


def _words(run: Run, evidence: dict[str, object], next_is: str) -> str:
    """Why it waits, then what is to be decided."""
    if run.state is RunState.AWAITING_FUNDING:
        return "A dryrun has proven it. Decide how much it may cost."
    if run.state is RunState.FUNDED:
        return "Its money is held. Launch it, or cancel it to have the money back."
    said = why(run.reason, evidence) if run.reason else run.detail
    if run.state is RunState.PAUSED:
        return f"{said} Fund it again to go on, or cancel it.".strip()
    end = "Plan it again as the command says." if "patron dryrun" in next_is else "Write down what was learnt."
    return f"{said} {end}".strip()
