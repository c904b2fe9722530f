"""An agent that has read skill.md and nothing else replays the origin story here. Prints JSON; minutes of a core.

    python -m tests.bench.agent

It calls only what the page names. Two dryruns; a first run that evaluates too often, which its metrics show; a second
one with another batch and tokenizer, amended before it is funded, and told to stop in the middle; a journal from which
a second agent goes on; feedback that is answered; and nothing beyond its allowance.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import httpx
import psutil

from patron_core import verbs
from patron_core.store import Store, ledger
from patron_core.store.tokens import Allowance

ALLOWED = 300_000  # micro-dollars
SPEC = {
    "depth": 1, "sequence_len": 64, "batch_tokens": 1024, "vocab_size": 512, "device_batch_size": 16, "num_steps": 200,
    "eval_tokens": 2048, "eval_every_steps": 4, "checkpoint_every_steps": 20, "data": "stdlib",
}  # fmt: skip


class Agent:
    def __init__(self, base: str, secret: str):
        self._http = httpx.Client(base_url=base, headers={"authorization": f"Bearer {secret}"}, timeout=120)
        page = self._http.get("/skill.md").text
        listed = re.findall(r"^- (GET|POST|PUT|DELETE) (/\S+): ", page, re.MULTILINE)
        self._routes = [(method, re.compile("/api" + re.sub(r"\{\w+\}", "[^/]+", path))) for method, path in listed]
        self.calls = 0

    def ask(self, method: str, path: str, *, key: str = "", **request: Any) -> dict[str, Any]:
        if not any(method == its and route.fullmatch(path) for its, route in self._routes):
            raise AssertionError(f"{method} {path} is not in the page")
        self.calls += 1
        headers = {"idempotency-key": key} if key else {}
        answer: dict[str, Any] = self._http.request(method, path, headers=headers, **request).json()
        return answer

    def wait(self, run: str, *, until: set[str], at_step: int | None = None) -> dict[str, Any]:
        cursor, end = 0, time.monotonic() + 400
        while time.monotonic() < end:
            seen = self.ask("GET", f"/api/runs/{run}", params={"fields": "state,step,reason,attempts,sentence"})
            if seen["state"] in until or (at_step is not None and seen["step"] >= at_step):
                return seen
            wait_s = 1 if at_step is not None else 20
            found = self.ask("GET", "/api/events", params={"run": run, "cursor": cursor, "wait_s": wait_s})
            cursor = found["cursor"]
        raise AssertionError(f"{run} is {seen}, not {until}")

    def proven(self, name: str, **changes: Any) -> str:
        body = {"spec": SPEC | changes, "name": name}
        run = str(self.ask("POST", "/api/runs", key=f"plan-{name}", json=body)["run"])
        self.ask("POST", f"/api/runs/{run}/dryrun", key=f"dryrun-{name}", json={})
        seen = self.wait(run, until={"awaiting_funding", "failed", "draft"})
        assert seen["state"] == "awaiting_funding", seen
        return run

    def launch(self, run: str) -> None:
        held = self.ask("POST", f"/api/runs/{run}/fundings", key=f"fund-{run}", json={})
        assert held.get("state") == "funded", held
        self.ask("POST", f"/api/runs/{run}/launch", key=f"launch-{run}")


def story(base: str, secrets: dict[str, str], home: str) -> dict[str, Any]:
    agent, owner = Agent(base, secrets["agent"]), Agent(base, secrets["owner"])
    rows = agent.ask("POST", "/api/estimate", json={"depths": [1, 2], "spec": {"num_steps": 200}})["rows"]
    first = agent.proven("first")
    second = agent.proven("second", batch_tokens=2048, vocab_size=600)
    agent.launch(first)
    assert agent.wait(first, until={"succeeded", "failed", "paused"})["state"] == "succeeded"
    asked = {"runs": first, "keys": "train/loss,val/bpb", "points": 10_000}
    total = agent.ask("GET", "/api/metrics", params=asked)["runs"][first]["total"]
    too_often = total["val/bpb"] * 10 > SPEC["num_steps"]
    body = {"kind": "failed", "run": first, "body": f"{total['val/bpb']} evaluations in {SPEC['num_steps']} steps"}
    agent.ask("POST", "/api/notes", key="n1", json=body)
    agent.ask("POST", f"/api/runs/{second}/amend", json={"changes": {"eval_every_steps": 100}})
    agent.launch(second)
    agent.wait(second, until={"succeeded", "failed"}, at_step=30)
    told = _tell_to_stop(home)
    ended = agent.wait(second, until={"succeeded", "failed", "paused"})
    rows_after = agent.ask("GET", "/api/compare", params={"runs": f"{first},{second}"})["runs"]
    plan = {"note": "go on with a smaller vocabulary", "spec": {"vocab_size": 400, "eval_every_steps": 100}}
    agent.ask("POST", "/api/notes", key="n2", json={"kind": "decision", "run": second, "body": json.dumps(plan)})
    heir = Agent(base, secrets["heir"])
    (note,) = heir.ask("GET", "/api/notes", params={"kind": "decision"})["notes"]
    third = heir.proven("third", **json.loads(note["body"])["spec"])
    refused = heir.ask("POST", f"/api/runs/{third}/fundings", key="more", json={"usd_micros": 2 * ALLOWED})
    for number in range(5):
        agent.ask("POST", "/api/feedback", key=f"f{number}", json={"body": f"thought {number}", "about": "dryrun"})
    for each in owner.ask("GET", "/api/feedback", params={"unanswered": True})["feedback"]:
        owner.ask("POST", f"/api/feedback/{each['feedback']}", json={"answer": "heard"})
    answered = agent.ask("GET", "/api/feedback", params={"by": "agent"})["feedback"]
    me = agent.ask("GET", "/api/me")
    return {
        "depths_estimated": len(rows),
        "evaluations_too_often": too_often,
        "told_to_stop": told,
        "second": {name: ended[name] for name in ("state", "step")},
        "attempts_of_second": [each["reason"] for each in ended["attempts"]],
        "val_bpb": [row["val_bpb"] for row in rows_after],
        "second_agent_went_on": third,
        "feedback_answered": sum(each["answer"] == "heard" for each in answered),
        "beyond_its_allowance": refused["error"]["code"],
        "held_or_spent_usd_micros": me["held_or_spent_usd_micros"],
        "calls": agent.calls,
    }


def _tell_to_stop(home: str) -> bool:
    """A notice to the trainer, as a machine that is taken away gives it."""
    for process in psutil.process_iter(["cmdline", "environ"]):
        ours = (process.info["environ"] or {}).get("PATRON_HOME") == home
        if ours and "trainer.train" in (process.info["cmdline"] or []):
            process.send_signal(signal.SIGTERM)
            return True
    return False


def main() -> int:
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"PATRON_HOME": home, "PATRON_LOCAL_USD_PER_HOUR": "1.00", "OMP_NUM_THREADS": "1"}
        store = Store.open()
        verbs.deposit(store, usd_micros=10_000_000, key="first", actor="owner")
        scopes: dict[str, tuple[str, ...]] = {"agent": ("run", "spend", "note"), "owner": ("admin",)}
        scopes["heir"] = scopes["agent"]
        limit = Allowance(total_usd_micros=ALLOWED, executors=("local",))
        secrets = {
            name: verbs.make_token(store, name=name, scopes=its, allowance=limit, expires_in_s=3600, actor="owner")[1]
            for name, its in scopes.items()
        }
        command = [sys.executable, "-m", "patron_core.commands", "serve", "--port", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        base = next(line.strip().split("/login")[0] for line in server.stdout if "/login?ticket=" in line)
        began = time.monotonic()
        try:
            found = story(base, secrets, home)
        finally:
            server.terminate()
            server.wait(timeout=30)
        found |= {"seconds": round(time.monotonic() - began, 1), "ledger": ledger.verify(store)}
        print(json.dumps(found, indent=1))
        store.close()
        for process in psutil.process_iter(["environ"]):
            if (process.info["environ"] or {}).get("PATRON_HOME") == home and process.pid != os.getpid():
                process.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
