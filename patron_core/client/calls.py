"""What can be asked, each as one request. How it is sent, and whether it is waited for, is `sending`'s."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

R = TypeVar("R")
Json = dict[str, Any]
Params = Mapping[str, Any] | None


class ApiError(Exception):
    """What the lab answered in the place of a result: its error's code, message, next and retryable."""

    def __init__(self, status: int, error: Mapping[str, Any]):
        self.status = status
        self.code = str(error.get("code", "unknown"))
        self.message = str(error.get("message", ""))
        self.next = str(error.get("next", ""))
        self.retryable = bool(error.get("retryable", False))
        super().__init__(f"{self.code}: {self.message}; next: {self.next}")


class Calls(ABC, Generic[R]):
    """R is a JSON object, or the promise of one."""

    @abstractmethod
    def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Json | None = None,
        key: str = "",
    ) -> R: ...

    def me(self) -> R:
        return self.send("GET", "/api/me")

    def estimate(
        self, depths: Sequence[int], *, devices: Sequence[str] = ("local",), fields: str = "", **more: Any
    ) -> R:
        body = {"depths": list(depths), "devices": list(devices), **more}
        return self.send("POST", "/api/estimate", params={"fields": fields}, body=body)

    def plan(self, spec: Mapping[str, Any], *, key: str, **more: Any) -> R:
        """more: project, name, on, device, spot, max_usd_micros, budget_s."""
        return self.send("POST", "/api/runs", body={"spec": dict(spec), **more}, key=key)

    def runs(self, **filters: Any) -> R:
        """filters: project, state, text, limit, cursor."""
        return self.send("GET", "/api/runs", params=filters)

    def run(self, run: str, *, fields: str = "") -> R:
        return self.send("GET", f"/api/runs/{run}", params={"fields": fields})

    def offer(self, run: str) -> R:
        return self.send("GET", f"/api/runs/{run}/offer")

    def dryrun(self, run: str, *, key: str, burst_steps: int = 8) -> R:
        return self.send("POST", f"/api/runs/{run}/dryrun", body={"burst_steps": burst_steps}, key=key)

    def amend(self, run: str, **changes: Any) -> R:
        return self.send("POST", f"/api/runs/{run}/amend", body={"changes": changes})

    def fund(self, run: str, *, key: str, usd_micros: int | None = None) -> R:
        return self.send("POST", f"/api/runs/{run}/fundings", body={"usd_micros": usd_micros}, key=key)

    def launch(self, run: str, *, key: str) -> R:
        return self.send("POST", f"/api/runs/{run}/launch", key=key)

    def resume(self, run: str, *, key: str, usd_micros: int | None = None) -> R:
        return self.send("POST", f"/api/runs/{run}/resume", body={"usd_micros": usd_micros}, key=key)

    def pause(self, run: str) -> R:
        return self.send("POST", f"/api/runs/{run}/pause")

    def cancel(self, run: str) -> R:
        return self.send("POST", f"/api/runs/{run}/cancel")

    def stop(self, **which: Any) -> R:
        """which: project, token; without either all that may be stopped."""
        return self.send("POST", "/api/stop", params=which)

    def metrics(self, runs: Sequence[str], *, keys: Sequence[str] = (), **more: Any) -> R:
        """more: since_step, around, points."""
        return self.send("GET", "/api/metrics", params={"runs": ",".join(runs), "keys": ",".join(keys), **more})

    def compare(self, runs: Sequence[str]) -> R:
        return self.send("GET", "/api/compare", params={"runs": ",".join(runs)})

    def events(self, *, cursor: int = 0, wait_s: float = 0.0, **more: Any) -> R:
        """more: run, project, limit."""
        return self.send("GET", "/api/events", params={"cursor": cursor, "wait_s": wait_s, **more})

    def log(self, run: str, *, lines: int = 40) -> R:
        return self.send("GET", f"/api/runs/{run}/log", params={"lines": lines})

    def checkpoints(self, run: str) -> R:
        return self.send("GET", f"/api/runs/{run}/checkpoints")

    def wallet(self, project: str = "lab") -> R:
        return self.send("GET", "/api/wallet", params={"project": project})

    def ledger(self, project: str = "lab", *, limit: int = 100) -> R:
        return self.send("GET", "/api/ledger", params={"project": project, "limit": limit})

    def notes(self, **filters: Any) -> R:
        """filters: project, run, kind, text, limit."""
        return self.send("GET", "/api/notes", params=filters)

    def note(self, body: str, *, key: str, **more: Any) -> R:
        """more: title, kind, project, run."""
        return self.send("POST", "/api/notes", body={"body": body, **more}, key=key)

    def approvals(self) -> R:
        return self.send("GET", "/api/approvals")

    def decide(self, approval: str, decision: str, *, word: str = "") -> R:
        return self.send("POST", f"/api/approvals/{approval}", body={"decision": decision, "word": word})

    def alerts(self, **filters: Any) -> R:
        """filters: project, kind, unseen, before, limit."""
        return self.send("GET", "/api/alerts", params=filters)

    def feedback(self, **filters: Any) -> R:
        """filters: by, unanswered, limit."""
        return self.send("GET", "/api/feedback", params=filters)

    def say(self, body: str, *, key: str, about: str = "") -> R:
        """Feedback on Patron."""
        return self.send("POST", "/api/feedback", body={"body": body, "about": about}, key=key)

    def answer(self, feedback: str, answer: str) -> R:
        return self.send("POST", f"/api/feedback/{feedback}", body={"answer": answer})
