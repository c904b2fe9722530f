"""An agent that has read skill.md and nothing else replays the origin story here. Prints JSON; minutes of a core.

    python -m tests.bench.agent [--over mcp] [--short]

It calls only what the page names, over HTTP or through `patron mcp`. A first run that evaluates too often, which its
metrics show, and that may not hold more than its allowance; with that `--short` ends. A second one with another batch
and tokenizer, amended before it is funded, and told to stop in the middle; a journal from which a second agent goes on.
Feedback that is answered.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx
import psutil
from anyio.from_thread import start_blocking_portal
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from patron_core import verbs
from patron_core.server.api import operations
from patron_core.store import Store, ledger
from patron_core.store.tokens import Allowance

ALLOWED = 300_000  # micro-dollars
SPEC = {
    "depth": 1, "sequence_len": 64, "batch_tokens": 1024, "vocab_size": 512, "device_batch_size": 16, "num_steps": 200,
    "eval_tokens": 2048, "eval_every_steps": 4, "checkpoint_every_steps": 20, "data": "stdlib",
}  # fmt: skip


class Way(Protocol):
    """How a call is made."""

    def page(self) -> str: ...

    def ask(self, method: str, path: str, *, key: str, params: dict[str, Any], body: Any) -> dict[str, Any]: ...


class OverHttp:
    def __init__(self, base: str, secret: str):
        self._http = httpx.Client(base_url=base, headers={"authorization": f"Bearer {secret}"}, timeout=120)

    def page(self) -> str:
        return self._http.get("/skill.md").text

    def ask(self, method: str, path: str, *, key: str, params: dict[str, Any], body: Any) -> dict[str, Any]:
        headers = {"idempotency-key": key} if key else {}
        return dict(self._http.request(method, path, headers=headers, params=params, json=body).json())


class OverMcp:
    """Through `patron mcp` and the official client, over stdio: a call is the tool of its route."""

    def __init__(self, until: ExitStack, secret: str):
        command = StdioServerParameters(
            command=sys.executable,
            args=["-m", "patron_core.commands", "mcp"],
            env=dict(os.environ) | {"PATRON_TOKEN": secret},
        )
        self._portal = until.enter_context(start_blocking_portal())
        self._client = until.enter_context(self._portal.wrap_async_context_manager(Client(stdio_client(command))))
        paths = [(each, re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", each.path)) for each in operations()]
        self._tools = [(each.name, each.method, re.compile(pattern)) for each, pattern in paths]

    def page(self) -> str:
        return self._call("skill", {})

    def ask(self, method: str, path: str, *, key: str, params: dict[str, Any], body: Any) -> dict[str, Any]:
        given = {**params, **(body or {})} | ({"key": key} if key else {})
        found = ((name, route.fullmatch(path)) for name, its, route in self._tools if its == method)
        name, said = next((name, said.groupdict()) for name, said in found if said)
        return dict(json.loads(self._call(name, said | given)))

    def _call(self, tool: str, arguments: dict[str, Any]) -> str:
        (content,) = self._portal.call(self._client.call_tool, tool, arguments).content
        return str(content.text)


class Agent:
    def __init__(self, way: Way):
        self._way = way
        listed = re.findall(r"^- (GET|POST|PUT|DELETE) (/[^\s?:]+)", way.page(), re.MULTILINE)
        self._routes = [(method, re.compile("/api" + re.sub(r"\{\w+\}", "[^/]+", path))) for method, path in listed]
        self.calls = 0

    def ask(self, method: str, path: str, *, key: str = "", params: Any = None, json: Any = None) -> dict[str, Any]:
        if not any(method == its and route.fullmatch(path) for its, route in self._routes):
            raise AssertionError(f"{method} {path} is not in the page")
        self.calls += 1
        return self._way.ask(method, path, key=key, params=params or {}, body=json)

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


def story(agent: Agent, heir: Agent, owner: OverHttp, home: str, *, short: bool) -> dict[str, Any]:
    rows = agent.ask("POST", "/api/estimate", json={"depths": [1, 2], "spec": {"num_steps": 200}})["rows"]
    found = {"depths_estimated": len(rows)} | _first(agent)
    if not short:
        found |= _second(agent, heir, home, str(found["first"]))
    return found | _feedback(agent, owner) | {"calls": agent.calls}


def _first(agent: Agent) -> dict[str, Any]:
    """A run that evaluates too often, as its metrics say."""
    first = agent.proven("first")
    refused = agent.ask("POST", f"/api/runs/{first}/fundings", key="more", json={"usd_micros": 2 * ALLOWED})
    agent.launch(first)
    assert agent.wait(first, until={"succeeded", "failed", "paused"})["state"] == "succeeded"
    asked = {"runs": first, "keys": "train/loss,val/bpb", "points": 10_000}
    total = agent.ask("GET", "/api/metrics", params=asked)["runs"][first]["total"]
    body = {"kind": "failed", "run": first, "body": f"{total['val/bpb']} evaluations in {SPEC['num_steps']} steps"}
    noted = agent.ask("POST", "/api/notes", key="n1", json=body)
    return {
        "first": first,
        "evaluations_too_often": total["val/bpb"] * 10 > SPEC["num_steps"],
        "noted_by": noted["actor"],
        "beyond_its_allowance": refused["error"]["code"],
    }


def _second(agent: Agent, heir: Agent, home: str, first: str) -> dict[str, Any]:
    """Another batch and tokenizer, amended by what the first one taught, and stopped; then somebody else goes on."""
    second = agent.proven("second", batch_tokens=2048, vocab_size=600)
    agent.ask("POST", f"/api/runs/{second}/amend", json={"changes": {"eval_every_steps": 100}})
    agent.launch(second)
    agent.wait(second, until={"succeeded", "failed"}, at_step=30)
    told = _tell_to_stop(home)
    ended = agent.wait(second, until={"succeeded", "failed", "paused"})
    rows = agent.ask("GET", "/api/compare", params={"runs": f"{first},{second}"})["runs"]
    plan = {"note": "go on with a smaller vocabulary", "spec": {"vocab_size": 400, "eval_every_steps": 100}}
    agent.ask("POST", "/api/notes", key="n2", json={"kind": "decision", "run": second, "body": json.dumps(plan)})
    (note,) = heir.ask("GET", "/api/notes", params={"kind": "decision"})["notes"]
    return {
        "told_to_stop": told,
        "second": {name: ended[name] for name in ("state", "step")},
        "attempts_of_second": [each["reason"] for each in ended["attempts"]],
        "val_bpb": [row["val_bpb"] for row in rows],
        "second_agent_went_on": heir.proven("third", **json.loads(note["body"])["spec"]),
    }


def _feedback(agent: Agent, owner: OverHttp) -> dict[str, Any]:
    for number in range(5):
        agent.ask("POST", "/api/feedback", key=f"f{number}", json={"body": f"thought {number}", "about": "dryrun"})
    given = owner.ask("GET", "/api/feedback", key="", params={"unanswered": True}, body=None)["feedback"]
    for each in given:
        owner.ask("POST", f"/api/feedback/{each['feedback']}", key="", params={}, body={"answer": "heard"})
    answered = agent.ask("GET", "/api/feedback", params={"by": "agent"})["feedback"]
    me = agent.ask("GET", "/api/me")
    return {
        "feedback_answered": sum(each["answer"] == "heard" for each in answered),
        "held_or_spent_usd_micros": me["held_or_spent_usd_micros"],
    }


def _tell_to_stop(home: str) -> bool:
    """A notice to the trainer, as a machine that is taken away gives it."""
    for process in psutil.process_iter(["cmdline", "environ"]):
        ours = (process.info["environ"] or {}).get("PATRON_HOME") == home
        if ours and "trainer.train" in (process.info["cmdline"] or []):
            process.send_signal(signal.SIGTERM)
            return True
    return False


@contextmanager
def a_lab(home: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A server of a lab with money: its address, and the secrets of an agent, its heir and the owner."""
    os.environ |= {"PATRON_HOME": str(home), "PATRON_LOCAL_USD_PER_HOUR": "1.00", "OMP_NUM_THREADS": "1"}
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
    try:
        yield next(line.strip().split("/login")[0] for line in server.stdout if "/login?ticket=" in line), secrets
        assert ledger.verify(store) == []
    finally:
        server.terminate()
        server.wait(timeout=30)
        store.close()
        for process in psutil.process_iter(["environ"]):
            if (process.info["environ"] or {}).get("PATRON_HOME") == str(home) and process.pid != os.getpid():
                process.kill()


def replay(home: Path, *, over: str, short: bool) -> dict[str, Any]:
    """The story in a lab of its own: what came of it."""
    with a_lab(home) as (base, secrets), ExitStack() as until:
        began = time.monotonic()

        def agent(name: str) -> Agent:
            return Agent(OverMcp(until, secrets[name]) if over == "mcp" else OverHttp(base, secrets[name]))

        heir = agent("heir")
        found = story(agent("agent"), heir, OverHttp(base, secrets["owner"]), str(home), short=short)
        return found | {"seconds": round(time.monotonic() - began, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--over", choices=("http", "mcp"), default="http")
    parser.add_argument("--short", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        print(json.dumps(replay(Path(home), over=args.over, short=args.short), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
