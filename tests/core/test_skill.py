"""skill.md says what there is, all of it, in few bytes; its calls work, through the client."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Lab, count_as_supervised, serving

from patron_core import verbs
from patron_core.client import ApiError, AsyncClient, Client
from patron_core.commands import TABLE, main, notebooks
from patron_core.server.api import operations
from patron_core.server.skill import MAX_BYTES, call, flags, skill
from patron_core.states import EndReason, RunState
from patron_core.store import Store
from patron_core.store.tokens import SCOPES


@pytest.fixture
def lab(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    count_as_supervised(sqlite_store, monkeypatch)
    with serving(sqlite_store) as found:
        yield found


def test_the_page_names_all_there_is_and_stays_small(lab: Lab) -> None:
    page = skill()
    assert len(page.encode()) <= MAX_BYTES
    assert page.startswith("---\nname: patron\ndescription: ")
    described = httpx.get(
        f"{lab.base}/api/openapi.json", headers={"authorization": f"Bearer {lab.token('r', 'read')}"}
    ).json()["paths"]
    served = {(method.upper(), path) for path, methods in described.items() for method in methods}
    assert {(each.method, each.path) for each in operations()} == served
    for each in operations():
        assert call(each) in page
    for word in [*RunState, *EndReason, *SCOPES, *TABLE, *notebooks()]:
        assert word in page
    for file in notebooks().values():
        assert flags(file)
        assert all(flag in page for flag in flags(file))


def test_it_is_served_printed_and_installed(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Client(lab.base, lab.token("r", "read")) as client:
        assert client.skill() == skill()
    assert main(["skill"]) == 0
    assert capsys.readouterr().out.strip() == skill().strip()
    assert main(["skill", "--install", str(tmp_path)]) == 0
    assert (tmp_path / "patron" / "SKILL.md").read_text(encoding="utf-8") == skill()


def test_what_lies_in_the_tree_leads_to_the_page_and_to_what_is_there() -> None:
    root = Path(__file__).parents[2]
    for name in ("AGENTS.md", "llms.txt"):
        text = (root / name).read_text(encoding="utf-8")
        assert "patron skill" in text
        assert all((root / link).is_file() for link in re.findall(r"\]\(([^)]+)\)", text))
        assert set(re.findall(r"patron (\w+)", text)) <= {*TABLE, *notebooks()}


def test_an_agent_goes_through_the_loop_by_the_client(lab: Lab) -> None:
    verbs.deposit(lab.store, usd_micros=10_000_000, key="first", actor="ada")
    secret = lab.token("agent", "run", "spend", "note", total_usd_micros=2_000_000)
    with Client(lab.base, secret) as client:
        assert client.me()["scopes"] == ["read", "note", "run", "spend"]
        assert client.estimate([1, 2], fields="depth")["rows"] == [{"depth": 1}, {"depth": 2}]
        run = client.plan({"depth": 1, "num_steps": 40}, key="plan", name="first")["run"]
        assert client.plan({"depth": 1, "num_steps": 40}, key="plan", name="first")["run"] == run
        with pytest.raises(ApiError, match="not awaiting funding") as refused:
            client.fund(run, key="fund")
        assert (refused.value.code, refused.value.retryable) == ("refused", False)
        assert client.dryrun(run, key="burst")["state"] == "dryrun"
        assert client.wait(run, until={"dryrun"}, timeout_s=10)["state"] == "dryrun"
        made = client.note("it begins", key="note", kind="hypothesis", run=run)
        assert [note["id"] for note in client.notes(run=run)["notes"]] == [made["id"]]
        assert client.cancel(run)["stop_requested"] == "cancel"
        assert client.runs(state="succeeded")["runs"] == []
        assert client.wallet()["held_usd_micros"] == client.me()["held_or_spent_usd_micros"]
        assert client.metrics([run])["runs"][run]["metrics"] == {}
        assert (client.log(run)["lines"], client.checkpoints(run)["checkpoints"], client.approvals()["approvals"]) == (
            [], [], [],
        )  # fmt: skip

    async def many() -> list[Any]:
        async with AsyncClient(lab.base, secret) as client:
            return await asyncio.gather(*(client.run(run, fields="state") for _ in range(20)))

    assert asyncio.run(many()) == [{"state": "dryrun"}] * 20


def test_the_client_asks_again_only_where_that_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patron_core.client.sending.TRIES_WAIT_S", (0.0, 0.0))
    asked: list[str] = []

    def busy(request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        error = {"code": "busy", "message": "wait", "next": "again", "retryable": True}
        return httpx.Response(503, json={"error": error}) if len(asked) < 3 else httpx.Response(200, json={})

    with Client("http://lab.invalid", "patron_x") as client:
        monkeypatch.setattr(
            client, "_http", httpx.Client(base_url="http://lab.invalid", transport=httpx.MockTransport(busy))
        )
        assert client.me() == {}
        asked.clear()
        assert client.fund("r1", key="k") == {}
        asked.clear()
        with pytest.raises(ApiError):
            client.pause("r1")
        assert asked == ["POST"]
