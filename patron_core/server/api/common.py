"""What all routes share: whose store it is, keys, amounts, and answers that are as small as was asked for."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Header, Query, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from patron_core.errors import InvalidInput
from patron_core.server.entry import Visitor
from patron_core.store import Store
from patron_core.verbs.money import DEFAULT_PROJECT

PREFIX = "/api"
KEY = "Idempotency-Key"


class Body(BaseModel):
    """A request's body: unknown fields are told, not ignored, and no text is taken for a number."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _printable(text: str) -> str:
    if "\x00" in text or not text.isprintable():
        raise ValueError("has characters that cannot be seen")
    return text


Word = Annotated[str, AfterValidator(_printable), Field(min_length=1, max_length=100)]
Micros = Annotated[int, Field(gt=0, le=1_000_000_000_000, description="integer micro-dollars: 1000000 is $1")]
RunWord = Annotated[str, AfterValidator(_printable), Field(min_length=1, max_length=100)]
Fields = Annotated[str, Query(max_length=1000, description="only these keys of the answer, comma between")]
Project = Annotated[Word, Query(description="project")]
DEFAULT = DEFAULT_PROJECT


class Caller:
    """Who calls: the store bound to the token, and the name that stands in ledger and notes."""

    def __init__(self, request: Request):
        visitor: Visitor = request.state.visitor
        address = request.client.host if request.client else "?"
        lab: Store = request.app.state.store
        self.store = lab.acting_as(visitor.token, origin=f"api {address}")
        self.actor = visitor.name
        self.visitor = visitor

    def key(self, given: str) -> str:
        """Keys of two tokens never meet."""
        return f"{self.actor}:{given}" if self.visitor.token else given


Asker = Annotated[Caller, Depends()]
Key = Annotated[
    str,
    AfterValidator(_printable),
    Header(
        alias=KEY,
        min_length=1,
        max_length=100,
        description="the same key with the same body is done once and answered the same; with another body it is a 409",
    ),
]


def cut(answer: dict[str, Any], fields: str = "") -> dict[str, Any]:
    """Raises InvalidInput for a key that the answer does not have."""
    wanted = [name.strip() for name in fields.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in answer]
    if unknown:
        problem = f"fields: no {', '.join(unknown)} here; there are {', '.join(sorted(answer))}"
        raise InvalidInput([problem], next="GET /skill.md")
    return {name: answer[name] for name in wanted} if wanted else answer
