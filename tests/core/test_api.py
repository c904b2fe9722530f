"""The API over a real port: the loop's verbs, keys, events, and those who mean harm."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import foreign
import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from serving import Lab, own_lab, serving

from patron_core import verbs
from patron_core.server import gate
from patron_core.server.api import events as api_events
from patron_core.states import AlertKind
from patron_core.store import alerts, ledger, runs
from patron_core.verbs.metrics import thinned

USD = 1_000_000


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One lab for all tests of this file; supervisor and mirror count as running."""
    with pytest.MonkeyPatch.context() as patch:
        store = own_lab(tmp_path_factory.mktemp("api"), patch)
        verbs.deposit(store, usd_micros=100 * USD, key="first", actor="ada")
        with serving(store) as found:
            yield found
        store.close()


@pytest.fixture(scope="module")
def agent(lab: Lab) -> Iterator[httpx.Client]:
    with lab.client("agent", "run", "spend", "note", total_usd_micros=10 * USD) as client:
        yield client


@pytest.fixture(scope="module")
def reader(lab: Lab) -> Iterator[httpx.Client]:
    with lab.client("reader", "read") as client:
        yield client


def key(word: str) -> dict[str, str]:
    return {"idempotency-key": word}


def planned(agent: httpx.Client, word: str, **more: Any) -> dict[str, Any]:
    body = {"spec": {"depth": 1, "num_steps": 40}, "name": word} | more
    answer = agent.post("/api/runs", json=body, headers=key(word))
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def error(answer: httpx.Response) -> str:
    shape = answer.json()["error"]
    assert {"code", "message", "next", "retryable"} <= set(shape)
    return str(shape["code"])


# --- what it is for ---------------------------------------------------------------------------------------------------


def test_estimate_plan_dryrun_and_what_happened(agent: httpx.Client, lab: Lab) -> None:
    rows = agent.post("/api/estimate?fields=depth,wall_s,cost_usd_micros", json={"depths": [1, 2]}).json()["rows"]
    assert [set(row) for row in rows] == [{"depth", "wall_s", "cost_usd_micros"}] * 2
    eight = {"depths": [12], "devices": ["H100"], "num_gpus": 8}
    (row,) = agent.post("/api/estimate?fields=num_gpus,num_nodes", json=eight | {"num_nodes": 2}).json()["rows"]
    assert row == {"num_gpus": 8, "num_nodes": 2}
    run = planned(agent, "loop")["run"]
    assert planned(agent, "loop")["run"] == run
    other = agent.post("/api/runs", json={"spec": {"depth": 2}, "name": "loop"}, headers=key("loop"))
    assert (other.status_code, error(other)) == (409, "conflict")
    cursor = agent.get("/api/events", params={"run": run}).json()["cursor"]
    waited: list[Any] = []

    def wait() -> None:
        waited.append(agent.get("/api/events", params={"cursor": cursor, "run": run, "wait_s": 20}).json())

    waiting = threading.Thread(target=wait)
    waiting.start()
    begun = agent.post(f"/api/runs/{run}/dryrun", json={}, headers=key("burst"))
    assert begun.json()["state"] == "dryrun", begun.text
    waiting.join(timeout=30)
    assert any(event["new"] == "dryrun" and event["actor"] == "agent" for event in waited[0]["events"])
    with httpx.stream(
        "GET", f"{lab.base}/api/events/stream", params={"run": run}, headers=agent.headers, timeout=20
    ) as stream:
        line = next(line for line in stream.iter_lines() if line.startswith("data:"))
        assert json.loads(line[5:])["kind"] == "created"
    held = agent.get("/api/me").json()
    assert held["held_or_spent_usd_micros"] == agent.get("/api/wallet").json()["held_usd_micros"] > 0
    stopped = agent.post("/api/stop").json()
    assert stopped["stopped"] == [run]
    assert agent.get(f"/api/runs/{run}", params={"fields": "state,next"}).json()["state"] == "dryrun"  # until it ended
    log = [(entry.verb, entry.origin) for entry in verbs.audit_log(lab.store, actor="agent")]
    assert ("dryrun", "api 127.0.0.1") in log


def test_code_of_others_is_planned_by_a_person_and_a_token_is_no_shell(
    agent: httpx.Client, lab: Lab, tmp_path: Path
) -> None:
    foreign.write(tmp_path / "toy", {"MLproject": foreign.MLPROJECT, "train.py": "1\n"})
    folder = str(tmp_path / "toy")
    for where in (folder, f"file://{folder}", "https://example.org/a/b@main"):
        refused = agent.post("/api/runs", json={"code": {"workload": where}}, headers=key("shell"))
        assert error(refused) == "refused", refused.text
        assert "as good as a shell" in refused.json()["error"]["message"]
    person = {"authorization": f"Bearer {lab.token('owner', 'admin')}"} | key("code")
    body = {"code": {"workload": folder, "parameters": {"lr": 0.125}}}
    made = httpx.post(f"{lab.base}/api/runs", json=body, headers=person)
    assert made.status_code == 201, made.text
    shown = agent.get(f"/api/runs/{made.json()['run']}").json()
    assert (shown["spec"]["parameters"]["lr"], shown["spec"]["origin"]) == (0.125, {"folder": folder})


def test_lists_have_filters_and_cursors(agent: httpx.Client, reader: httpx.Client) -> None:
    for number in range(5):
        planned(agent, f"many-{number}", project="listed")
    first = reader.get("/api/runs", params={"project": "listed", "limit": 3}).json()
    second = reader.get("/api/runs", params={"project": "listed", "limit": 3, "cursor": first["cursor"]}).json()
    assert [run["name"] for run in [*first["runs"], *second["runs"]]] == [f"many-{n}" for n in (4, 3, 2, 1, 0)]
    assert second["cursor"] is None
    assert reader.get("/api/runs", params={"state": "running"}).json()["runs"] == []
    assert [run["name"] for run in reader.get("/api/runs", params={"text": "many-2"}).json()["runs"]] == ["many-2"]


def test_notes_keep_revisions_are_found_and_are_written_once(agent: httpx.Client) -> None:
    words = {
        "body": "# <script>alert(1)</script> '; DROP TABLE notes; --",
        "title": "depth 3 diverged",
        "kind": "failed",
    }
    made = [agent.post("/api/notes", json=words, headers=key("note")).json()["id"] for _ in range(2)]
    assert made[0] == made[1]
    changed = agent.post("/api/notes", json=words | {"body": "else"}, headers=key("note"))
    assert error(changed) == "conflict"
    kept = agent.put(f"/api/notes/{made[0]}", json=words | {"body": "because of lr", "base_revision": 1})
    assert kept.json()["revision"] == 2
    late = agent.put(f"/api/notes/{made[0]}", json=words | {"body": "no", "base_revision": 1})
    assert (late.status_code, error(late)) == (409, "conflict")
    found = agent.get("/api/notes", params={"text": "DIVERGED", "kind": "failed"}).json()["notes"]
    assert [(note["id"], note["actor"]) for note in found] == [(made[0], "agent")]
    assert [r["body"] for r in agent.get(f"/api/notes/{made[0]}").json()["revisions"]] == [
        words["body"],
        "because of lr",
    ]


def test_metrics_are_thinned_and_a_spike_stays(agent: httpx.Client, lab: Lab) -> None:
    spiked = [(step, 9.5 if step == 63_001 else 1.0 + step % 7 / 100, 0.0) for step in range(100_000)]
    few = thinned(spiked, 200)
    assert len(few) <= 200
    assert (63_001, 9.5, 0.0) in few
    assert (few[0], few[-1]) == (spiked[0], spiked[-1])
    run = runs.get_run(lab.store, planned(agent, "curves")["run"])
    folder = Path(run.run_dir) / "events"
    folder.mkdir(parents=True)
    lines = [{"kind": "start", "seq": 0, "step": None, "num_steps": 40}]
    lines += [{"kind": "metrics", "seq": s, "step": s, "metrics": {"train/loss": 3.0 - s / 40}} for s in range(1, 41)]
    attempt = f"{run.id}-train-1"
    text = "".join(json.dumps(line | {"attempt": attempt, "time": 1.0}) + "\n" for line in lines)
    (folder / f"{attempt}-000000.jsonl").write_text(text)
    asked = {"runs": "curves", "keys": "train/loss,nothing", "since_step": 30, "points": 4}
    found = agent.get("/api/metrics", params=asked).json()["runs"][run.id]
    assert (found["source"], found["unknown_keys"], found["total"]) == ("events", ["nothing"], {"train/loss": 10})
    assert [point[0] for point in found["metrics"]["train/loss"]] == [31, 32, 39, 40]
    near = agent.get("/api/metrics", params={"runs": run.id, "around": 20, "points": 4}).json()["runs"][run.id]
    assert {point[0] for point in near["metrics"]["train/loss"]} >= {19, 20, 21}


def test_checkpoints_are_listed_with_hashes_and_downloaded_in_ranges(agent: httpx.Client, lab: Lab) -> None:
    run = runs.get_run(lab.store, planned(agent, "saved")["run"])
    folder = Path(run.run_dir) / "checkpoints" / "step-000010"
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(b"0123456789")
    (folder / "manifest.json").write_text(
        json.dumps({"step": 10, "files": {"model.bin": {"bytes": 10, "sha256": "ab"}}})
    )
    (Path(run.run_dir) / "spec.json").write_text("{}")
    listed = agent.get(f"/api/runs/{run.id}/checkpoints").json()["checkpoints"]
    assert listed[0]["files"] == {"model.bin": {"bytes": 10, "hash": "ab"}}
    part = agent.get(f"/api/runs/{run.id}/checkpoints/10/model.bin", headers={"range": "bytes=3-5"})
    assert (part.status_code, part.content) == (206, b"345")
    for name in ("../../spec.json", "..%2f..%2fspec.json", "%2e%2e/%2e%2e/spec.json", "/etc/passwd", "manifest.json"):
        answer = agent.get(f"/api/runs/{run.id}/checkpoints/10/{name}")
        assert answer.status_code == 404, (name, answer.text)
    secret = Path(run.run_dir).parent / "outside"
    secret.write_text("of this machine")
    (folder / "model.bin").unlink()
    (folder / "model.bin").symlink_to(secret)
    (folder / "manifest.json").write_text(json.dumps({"step": 10, "files": {"model.bin": {"bytes": 15}}}))
    answer = agent.get(f"/api/runs/{run.id}/checkpoints/10/model.bin")
    assert error(answer) == "refused", answer.text


def test_feedback_is_given_once_and_answered_by_a_person_alone(agent: httpx.Client, lab: Lab) -> None:
    words = {"body": "<script>alert(1)</script> the dryrun is slow", "about": "dryrun"}
    given = [agent.post("/api/feedback", json=words, headers=key("slow")).json() for _ in range(2)]
    assert given[0] == given[1]
    assert agent.post("/api/feedback", json={"body": "else"}, headers=key("slow")).status_code == 409
    url = f"/api/feedback/{given[0]['feedback']}"
    assert agent.post(url, json={"answer": "no"}).status_code == 403
    assert agent.post("/feedback", data={"answer": given[0]["feedback"], "word": "no"}).status_code == 200
    person = {"authorization": f"Bearer {lab.token('person', 'admin')}"}
    page = httpx.get(f"{lab.base}/feedback", headers=person).text
    assert "&lt;script&gt;" in page
    assert "<script>alert" not in page
    said = httpx.post(f"{lab.base}/feedback", headers=person, data={"answer": given[0]["feedback"], "word": "mended"})
    assert "mended" in said.text
    (mine,) = agent.get("/api/feedback", params={"by": "agent"}).json()["feedback"]
    assert (mine["answer"], mine["answered_by"]) == ("mended", "person")
    assert agent.get("/api/feedback", params={"unanswered": True}).json()["feedback"] == []


def test_alerts_are_listed_and_put_away_by_a_person_alone(agent: httpx.Client, lab: Lab) -> None:
    with lab.store.begin() as conn:
        for name in ("<b>one</b>", "two"):
            alerts.add(conn, kind=AlertKind.DIVERGED, sentence="So it is.", name=name, next="patron lab", now=1.0)
    first = agent.get("/api/alerts", params={"kind": "diverged", "limit": 1}).json()
    rest = agent.get("/api/alerts", params={"kind": "diverged", "limit": 1, "before": first["cursor"]}).json()
    assert [each["name"] for each in (*first["alerts"], *rest["alerts"])] == ["two", "<b>one</b>"]
    assert agent.post("/api/alerts/seen", json={"up_to": first["alerts"][0]["alert"]}).status_code == 403
    person = {"authorization": f"Bearer {lab.token('person', 'admin')}"}
    page = httpx.get(f"{lab.base}/alerts", headers=person).text
    assert "&lt;b&gt;one" in page
    httpx.post(f"{lab.base}/alerts", headers=person, data={"seen": str(first["alerts"][0]["alert"])})
    assert agent.get("/api/alerts", params={"unseen": True}).json()["alerts"] == []
    tried = httpx.post(f"{lab.base}/alerts", headers=person, data={"test": "1"})
    assert "PATRON_ALERT_WEBHOOK" in tried.text
    audited = httpx.get(f"{lab.base}/audit", params={"actor": "person"}, headers=person).text
    assert "see alerts" in audited
    assert "agent" not in audited


# --- who means harm ---------------------------------------------------------------------------------------------------


def test_a_stolen_token_of_a_reader_changes_nothing(agent: httpx.Client, reader: httpx.Client, lab: Lab) -> None:
    run = planned(agent, "coveted")["run"]
    before = ledger.statement(lab.store, "lab")
    for method, path, body in (
        ("POST", "/api/runs", {"spec": {"depth": 1}}),
        ("POST", f"/api/runs/{run}/dryrun", {}),
        ("POST", f"/api/runs/{run}/fundings", {"usd_micros": 1}),
        ("POST", f"/api/runs/{run}/launch", None),
        ("POST", f"/api/runs/{run}/pause", None),
        ("POST", f"/api/runs/{run}/cancel", None),
        ("POST", f"/api/runs/{run}/amend", {"changes": {"num_steps": 50}}),
        ("POST", "/api/stop", None),
        ("POST", "/api/deposits", {"usd_micros": 1}),
        ("POST", "/api/notes", {"body": "x"}),
        ("POST", "/api/tokens", {"name": "mine", "scopes": ["admin"]}),
        ("DELETE", "/api/tokens/agent", None),
        ("POST", "/api/approvals/a1", {"decision": "approved"}),
        ("POST", "/api/searches", {}),
        ("GET", "/api/tokens", None),
    ):
        answer = reader.request(method, path, json=body, headers=key("k"))
        assert answer.status_code in (403, 202), (path, answer.text)
        assert answer.status_code == 403 or path == "/api/searches"  # it begins, and is refused there
    assert ledger.statement(lab.store, "lab") == before
    assert runs.get_run(lab.store, run).state.value == "draft"
    assert agent.post("/api/deposits", json={"usd_micros": 1}, headers=key("d")).status_code == 403


def test_odd_amounts_keys_and_bodies_are_told_apart(agent: httpx.Client, lab: Lab) -> None:
    run = planned(agent, "amounts")["run"]
    url = f"/api/runs/{run}/fundings"
    as_json = key("a") | {"content-type": "application/json"}
    for amount in ("-1", "0", "1e6", "NaN", "Infinity", '"1000"', "1.5", "true", str(10**30)):
        answer = agent.post(url, content=f'{{"usd_micros": {amount}}}', headers=as_json)
        assert (answer.status_code, error(answer)) == (400, "invalid_input"), (amount, answer.text)
    assert error(agent.post(url, json={"usd_micros": 5, "extra": 1}, headers=key("a"))) == "invalid_input"
    assert error(agent.post(url, json={"usd_micros": 5})) == "invalid_input"  # no key
    assert error(agent.post(url, json={"usd_micros": 5}, headers=key("a\tb"))) == "invalid_input"
    assert error(agent.post(url, content="{" * 10_000, headers=key("a"))) == "invalid_input"
    huge = agent.post("/api/notes", json={"body": "x" * 5_000_000}, headers=key("n"))
    assert (huge.status_code, error(huge)) == (413, "too_large")

    def endless() -> Iterator[bytes]:
        for _ in range(50):
            yield b"x" * 1_000_000

    assert agent.post("/api/notes", content=endless(), headers=key("n")).status_code == 413
    token = lab.secrets["agent"]
    assert error(agent.get(f"/api/runs?text={token}")) == "invalid_input"
    for origin in ("http://evil.example", "null"):
        assert error(agent.post("/api/stop", headers={"origin": origin})) == "wrong_place"
    assert "access-control-allow-origin" not in agent.options("/api/runs", headers={"origin": lab.base}).headers


def test_slow_bodies_and_too_many_streams_are_let_go(
    lab: Lab, agent: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "BODY_S", 0.5)
    host, _, port = lab.base.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as slow:
        head = f"POST /api/notes HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: {agent.headers['authorization']}\r\n"
        slow.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        assert b"503" in slow.recv(100)
    monkeypatch.setattr(api_events, "MAX_STREAMS", 3)
    url = f"{lab.base}/api/events/stream"
    opened = [httpx.Client(headers=agent.headers) for _ in range(4)]
    streams = [client.send(client.build_request("GET", url), stream=True) for client in opened]
    assert sorted(stream.status_code for stream in streams) == [200, 200, 200, 503]
    for stream, client in zip(streams, opened, strict=True):
        stream.close()
        client.close()
    end = time.monotonic() + 20
    while api_events._open_streams and time.monotonic() < end:
        time.sleep(0.1)
    assert api_events._open_streams == 0


def test_whatever_is_sent_nothing_breaks(lab: Lab) -> None:
    """Of every route many requests within and outside its schema: no 5xx, and every answer has the one shape."""
    secret = lab.token("fuzzer", "run", "note")
    headers = {"authorization": f"Bearer {secret}"}
    schema = schemathesis.openapi.from_url(f"{lab.base}/api/openapi.json", headers=headers)
    skipped = {"/api/events/stream", "/api/searches", "/api/prices", "/api/events"}
    faults: list[str] = []
    tried = 0

    def look(case: Any) -> None:
        nonlocal tried
        tried += 1
        answer = case.call(headers=headers, timeout=30)
        if answer.status_code >= 500 and answer.status_code != 503:
            faults.append(f"{case.as_curl_command()} -> {answer.status_code} {answer.text[:300]}")
        elif answer.status_code >= 400 and "error" not in answer.json():
            faults.append(f"{case.method} {case.path} -> {answer.status_code} {answer.text[:300]}")

    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path in skipped:
            continue
        test = schemathesis_test(operation, look)
        test()
    assert not faults, "\n".join(faults[:5])
    assert tried > 100


def schemathesis_test(operation: Any, look: Any) -> Any:
    from hypothesis import given

    quick = settings(
        max_examples=6, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    return quick(given(case=operation.as_strategy())(lambda case: look(case)))
