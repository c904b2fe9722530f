"""Errors as HTTP: one shape, and the status that its code means."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from patron_core.errors import PatronError
from patron_core.ui.script import to_json

STATUS = {
    "invalid_input": 400,
    "unauthorised": 401,
    "forbidden": 403,
    "wrong_place": 403,
    "beyond_allowance": 403,
    "approval_needed": 403,
    "confirmation_needed": 400,
    "not_found": 404,
    "conflict": 409,
    "stale_state": 409,
    "refused": 409,
    "too_large": 413,
    "unavailable": 424,  # a tool or credential that this lab needs is missing: asking again does not help
    "busy": 503,
    "too_slow": 503,
    "internal": 500,
    "illegal_transition": 500,
}


class Answer(JSONResponse):
    """Strict JSON: what is not a finite number is null."""

    def render(self, content: Any) -> bytes:
        return to_json(content).encode()


def error_answer(error: PatronError) -> Answer:
    status = STATUS.get(error.code, 409)
    headers = {"retry-after": "2"} if error.retryable else {}
    headers |= {"www-authenticate": "Bearer"} if status == 401 else {}
    return Answer(error.to_dict(), status_code=status, headers=headers)
