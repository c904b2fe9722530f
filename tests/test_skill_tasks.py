"""skill.md as a reader uses it: for each task the one line that it must lead to stands in the page, and works.

A line stands there where the page lists the route or command, with every parameter, field and flag that the line gives,
and the line gives all that is required.
"""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from patron_core import verbs
from patron_core.commands import main
from patron_core.states import RunState
from patron_core.store import Run, Store, attempts, ledger, runs

for folder in ("core", "notebooks"):
    sys.path.insert(0, str(Path(__file__).parent / folder))

import labs  # noqa: E402
from runs_in_states import SPEC  # noqa: E402
from serving import Lab, own_lab, serving  # noqa: E402

USD = 1_000_000
ENVIRONMENT = {"hash": "e" * 16}
WAY = (RunState.DRYRUN, RunState.AWAITING_FUNDING, RunState.FUNDED, RunState.LAUNCHING, RunState.RUNNING)


@dataclass(frozen=True)
class Task:
    """What somebody wants, the line for it (over HTTP, or a command), and what shows that it did that."""

    want: str
    line: str
    shows: Callable[[Any], Any] = bool  # of the answer; true
    body: dict[str, Any] | None = None
    key: bool = False
    who: str = "agent"
    fails: int = 0  # with this status of HTTP, or this exit code
    also: tuple[str, ...] = field(default=())  # words of the page that say the rest


TASKS = (
    Task("What may I spend?", "GET /me", lambda a: a["allowance"]["total_usd_micros"] == 50 * USD),
    Task("How much is left?", "GET /wallet?project=lab", lambda a: a["available_usd_micros"] > 0),
    Task("Where did the money go?", "GET /ledger?limit=5", lambda a: len(a["transfers"]) == 5),
    Task("What does it cost?", "POST /estimate?fields=depth,wall_s", lambda a: len(a["rows"]) == 2,
         {"depths": [1, 2]}),
    Task("What does an H100 cost?", "GET /prices?devices=H100&dated=true", lambda a: "H100" in json.dumps(a)),
    Task("Plan a run", "POST /runs", lambda a: a["state"] == "draft", {"spec": SPEC, "name": "planned"}, True),
    Task("Prove it", "POST /runs/to-prove/dryrun", lambda a: a["state"] == "dryrun", {}, True),
    Task("Evaluate less often", "POST /runs/proven/amend", lambda a: a["state"] == "awaiting_funding",
         {"changes": {"eval_every_steps": 7}}),
    Task("What would launching hold?", "GET /runs/proven/offer?fields=hold_usd_micros",
         lambda a: a["hold_usd_micros"] > 0),
    Task("Hold money for it", "POST /runs/to-fund/fundings", lambda a: a["state"] == "funded", {"usd_micros": 50_000},
         True),
    Task("Hold more than I may alone", "POST /runs/to-ask/fundings", lambda a: a["error"]["code"] == "approval_needed",
         {"usd_micros": 2 * USD}, True, fails=403, also=("What waits for approval waits",)),
    Task("What waits for a person?", "GET /approvals", lambda a: a["approvals"]),
    Task("Approve it", "POST /approvals/<approval>", lambda a: a["state"] == "approved",
         {"decision": "approved", "word": "go on"}, who="person"),
    Task("Give myself money", "POST /deposits", lambda a: a["error"]["code"] == "forbidden", {"usd_micros": USD}, True,
         fails=403, also=("For a person alone: ",)),
    Task("Start it", "POST /runs/funded/launch", lambda a: a["state"] == "launching", None, True),
    Task("Is it done yet?", "GET /runs/seen?fields=state,step", lambda a: a == {"state": "running", "step": 6}),
    Task("Wait for what happens", "GET /events?run=seen&cursor=0&wait_s=20", lambda a: a["cursor"] > 0,
         also=("with the `cursor` of the answer\nbefore",)),
    Task("Metrics since a step", "GET /metrics?runs=seen&keys=train/loss&since_step=4",
         lambda a: [point[0] for each in a["runs"].values() for point in each["metrics"]["train/loss"]] == [5, 6]),
    Task("All points next to a step", "GET /metrics?runs=seen&around=3&points=4",
         lambda a: all(3 in [p[0] for p in each["metrics"]["train/loss"]] for each in a["runs"].values())),
    Task("Metrics since a step", "patron runs --run seen --keys train/loss --since-step 4",
         lambda a: [point[0] for point in a["runs"]["seen"]["metrics"]["train/loss"]] == [5, 6]),
    Task("What did it print?", "GET /runs/seen/log?lines=2", lambda a: a["lines"] == ["step 4 done", "step 5 done"]),
    Task("What did it save?", "GET /runs/seen/checkpoints", lambda a: a["checkpoints"][0]["step"] == 6),
    Task("Fetch a checkpoint", "GET /runs/seen/checkpoints/6/model.pt", lambda a: a == "1234"),
    Task("Which runs are paused?", "GET /runs?state=paused&limit=5", lambda a: [r["name"] for r in a["runs"]],
         who="reader"),
    Task("Stop it, and go on later", "POST /runs/to-pause/pause", lambda a: a["stop_requested"] == "pause"),
    Task("Go on where it stopped", "POST /runs/paused/resume", lambda a: a["state"] == "launching",
         {"usd_micros": 50_000}, True, also=("resume goes on there",)),
    Task("End it for good", "POST /runs/to-cancel/cancel", lambda a: a["state"] == "cancelled"),
    Task("Was the forecast right?", "GET /compare?runs=seen,proven", lambda a: len(a["runs"]) == 2),
    Task("What failed before?", "GET /notes?kind=failed&text=warmup", lambda a: a["notes"][0]["body"].startswith("A")),
    Task("Write what came out", "POST /notes", lambda a: a["actor"] == "agent",
         {"body": "It learns.", "kind": "result", "run": "seen"}, True),
    Task("Correct a note", "PUT /notes/<note>", lambda a: a["revision"] == 2,
         {"body": "A longer warmup failed too.", "kind": "failed", "base_revision": 1}),
    Task("Say what is missing", "POST /feedback", lambda a: a["feedback"], {"body": "Why?", "about": "dryrun"}, True),
    Task("Was I answered?", "GET /feedback?by=agent", lambda a: isinstance(a["feedback"], list)),
    Task("Who changed what?", "GET /audit?actor=agent&limit=5", lambda a: isinstance(a["calls"], list)),
    Task("Is the server there?", "GET /health", lambda a: a["status"] == "healthy", also=("once\n  GET /health",)),
    Task("A --yes is missing", "patron launch --run to-confirm", lambda a: a["error"]["code"] == "confirmation_needed",
         fails=4, also=("4 a --yes is missing",)),
    Task("It is refused", "patron lab --deposit 1 --yes", lambda a: a["error"]["next"], fails=3,
         also=("3 refused (do its `next`)",)),
    Task("Follow it for a while", "patron watch --run seen --timeout-s 1", lambda a: a["state"] == "running", fails=7,
         also=("7 --timeout-s is\nover, it goes on",)),
    Task("Stop what I hold money for", "POST /stop?token=agent", lambda a: len(a["stopped"]) > 0),
    Task("Stop everything", "patron stop --all", lambda a: a["failed"] == {}),
)  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One lab for all tasks, with a run for each."""
    with pytest.MonkeyPatch.context() as patch:
        store = own_lab(tmp_path_factory.mktemp("tasks"), patch)
        fund = import_module("patron_core.verbs.fund")  # the verb of that name hides it
        patch.setattr(fund, "current_environment", lambda *_, **__: ENVIRONMENT)  # else seconds of torch
        verbs.deposit(store, usd_micros=1000 * USD, key="first", actor="ada")
        with serving(store) as found:
            found.token("agent", "run", "spend", "note", total_usd_micros=50 * USD, approve_above_usd_micros=USD)
            found.token("person", "admin")
            found.token("reader", "read")
            _fill(found.store)
            patch.setenv("PATRON_TOKEN", found.secrets["agent"])
            yield found
        store.close()


@pytest.fixture(scope="module")
def page(lab: Lab) -> str:
    return httpx.get(f"{lab.base}/skill.md", headers={"authorization": f"Bearer {lab.token('reader')}"}).text


def _fill(store: Store) -> None:
    """A run for each task, of the agent's."""
    for name, state in {
        "to-prove": RunState.DRAFT,
        "proven": RunState.AWAITING_FUNDING,
        "to-fund": RunState.AWAITING_FUNDING,
        "to-ask": RunState.AWAITING_FUNDING,
        "to-confirm": RunState.AWAITING_FUNDING,
        "to-cancel": RunState.AWAITING_FUNDING,
        "funded": RunState.FUNDED,
        "to-pause": RunState.RUNNING,
        "to-stop": RunState.RUNNING,
        "paused": RunState.PAUSED,
    }.items():
        made(store, name, state)
    seen = made(store, "seen", RunState.RUNNING)
    attempt = f"{seen.id}-train-1"
    with store.begin() as conn:
        attempts.create(conn, seen, kind="train", usd_micros_per_hour=100_000, price={"device": "cpu"}, now=1.0)
    labs.write_events(seen, {attempt: (0, 6)}, at=1.0, end=2.0)
    saved = Path(seen.run_dir) / "checkpoints" / "step-000006"
    saved.mkdir(parents=True)
    (saved / "model.pt").write_text("1234")
    (saved / "manifest.json").write_text(json.dumps({"step": 6, "files": {"model.pt": {"bytes": 4}}}))
    verbs.write_note(store, body="A warmup of 40 steps was no better.", kind="failed", project="lab", actor="bob")


def made(store: Store, name: str, state: RunState) -> Run:
    """A run of the agent's in that state: proven, and with its money held where that state has it."""
    run = verbs.plan(store, spec=SPEC, name=name, actor="agent")
    if state is RunState.DRAFT:
        return run
    way = WAY if state is RunState.PAUSED else WAY[: WAY.index(state)]
    with store.begin() as conn:
        runs.set_fields(conn, run.id, now=1.0, dryrun=labs.report(run, f"{run.id}-dryrun-1", ENVIRONMENT["hash"]))
        for new in (*way, state):
            if new is RunState.FUNDED:
                ledger.hold(conn, run, 100_000, key=f"hold:{run.id}", actor="agent", now=1.0)
            run = runs.transition(conn, run.id, old=run.state, new=new, actor="agent", now=1.0)
        if state is RunState.PAUSED:
            ledger.release(conn, run, key=f"release:{run.id}", now=1.0)
    return run


# --- the page, read ---------------------------------------------------------------------------------------------------

ROUTE = re.compile(r"(GET|POST|PUT|DELETE) (/[^\s?]+?)(?:\?(\S+?))?(?: \{(\S*)\})?( K)?(?:$|;|: )")


def routes_of(page: str) -> list[tuple[str, re.Pattern[str], dict[str, bool], dict[str, bool], bool]]:
    """(method, path, query, body, key) of each that is listed; of query and body what is required."""
    listed = page.partition("## Routes")[2].partition("\n## ")[0].splitlines()[1:]
    found = []
    for method, path, query, body, key in (each for line in listed for each in ROUTE.findall(line)):
        pattern = re.compile(re.sub(r"\{\w+\}", "[^/]+", path))
        found.append((method, pattern, starred(query.split("&")), starred(body.split(",")), bool(key)))
    return found


def starred(names: list[str]) -> dict[str, bool]:
    return {name.removesuffix("*"): name.endswith("*") for name in names if name}


def stands(page: str, task: Task) -> list[str]:
    """What a reader of the page would not know of the task's line."""
    missing = [f"no words {words!r}" for words in task.also if words not in page]
    method, _, rest = task.line.partition(" ")
    if method == "patron":
        name, *words = rest.split()
        listed = re.search(rf"^- {name}: (.*)$", page, re.MULTILINE)
        flags = listed[1].split() if listed else []
        return missing + [f"{name} has no {word}" for word in words if word.startswith("--") and word not in flags]
    if rest == "/health":  # open to all, and no route of the API
        return missing
    url = urlsplit(rest)
    routes = [each for each in routes_of(page) if each[0] == method and each[1].fullmatch(url.path)]
    if not routes:
        return [*missing, f"no route {method} {url.path}"]
    _, _, query, body, key = routes[-1]
    for given, known in ((parse_qs(url.query), query), (task.body or {}, body)):
        missing += [f"no {name}" for name in given if name not in known]
        missing += [f"{name} is required" for name, required in known.items() if required and name not in given]
    return missing + ([] if key == task.key else ["whether it takes a key"])


# --- and obeyed -------------------------------------------------------------------------------------------------------


def obeyed(lab: Lab, task: Task, capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    """(0, or the status or exit code with which it failed; answer)."""
    method, _, rest = task.line.partition(" ")
    if method == "patron":
        return patron(rest.split(), capsys)
    for hole, value in holes(lab, rest):
        rest = rest.replace(hole, value)
    headers = {"authorization": f"Bearer {lab.token(task.who)}"}
    headers |= {"idempotency-key": f"key of {task.want}"} if task.key else {}
    path = rest if rest == "/health" else f"/api{rest}"
    answer = httpx.request(method, f"{lab.base}{path}", headers=headers, json=task.body, timeout=60)
    said = answer.json() if "json" in answer.headers["content-type"] else answer.text
    return (0 if answer.is_success else answer.status_code), said


def patron(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", sys.stdout)  # a command with --json keeps it for itself
        patch.setattr(sys, "argv", ["patron"])
        try:
            code = main([*argv, "--json"])
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, json.loads(capsys.readouterr().out)


def holes(lab: Lab, line: str) -> Iterator[tuple[str, str]]:
    """What a reader fills in from another answer."""
    if "<note>" in line:
        yield "<note>", verbs.read_notes(lab.store, project="lab", kind="failed")[0].id
    if "<approval>" in line:
        yield "<approval>", verbs.waiting(lab.store)[0].id


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.want} {task.line.split()[0]}")
def test_the_page_leads_to_the_line_and_the_line_works(
    task: Task, lab: Lab, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stands(page, task) == []
    status, answer = obeyed(lab, task, capsys)
    assert status == task.fails, answer
    assert task.shows(answer), answer


def test_exit_5_is_answered_by_the_same_line_with_the_same_key(
    lab: Lab, page: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "5 busy (again, same --key)" in page
    line = ["feedback", "--say", "busy", "--key", "at-3-am"]
    monkeypatch.setenv("PATRON_DATABASE_WAIT_S", "0.3")
    with closing(sqlite3.connect(lab.store.url.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        code, said = patron(line, capsys)
        assert (code, said["error"]["retryable"]) == (5, True)
        other.execute("ROLLBACK")
    assert patron(line, capsys)[0] == patron(line, capsys)[0] == 0
    assert [each.body for each in verbs.list_feedback(lab.store)].count("busy") == 1


def test_a_line_that_the_page_does_not_have_is_found_out(page: str) -> None:
    wrong = {
        "GET /metrics?runs=a&after_step=4": "no after_step",
        "GET /metrics?keys=train/loss": "runs is required",
        "POST /runs/a/lunch": "no route POST /runs/a/lunch",
        "POST /runs/a/launch": "whether it takes a key",
        "patron runs --run a --since 4": "runs has no --since",
    }
    assert {line: "; ".join(stands(page, Task("?", line))) for line in wrong} == wrong
