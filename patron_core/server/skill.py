"""skill.md: the one page from which an agent can do everything here, generated from the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from patron_core import settings
from patron_core.commands import TABLE, notebooks
from patron_core.server.answers import STATUS
from patron_core.server.api import PREFIX, Operation, operations
from patron_core.server.api.common import KEY
from patron_core.states import NEXT_STATE, SENTENCE, EndReason, RunState
from patron_core.store.notes import KINDS
from patron_core.store.tokens import SCOPE_WORDS, SCOPES, Allowance
from patron_core.verbs.next_steps import next_step_of_state
from patron_core.verbs.watch import STATE_SENTENCE

MAX_BYTES = 12_000
_OF_AGENTS = ("runs", "stop", "approve", "feedback", "report")  # commands beside the notebooks whose flags they need
_FRONT = """---
name: patron
description: Train language models within a budget of dollars. Estimate, prove with a dryrun, fund, launch, watch,
  compare and note, by `patron` commands or over HTTP. For questions like "which depth is best in an hour for $10?"
---
"""
_INTRO = """# Patron

Patron trains nanochat-style language models within a budget, here or on spot GPUs.
You are bounded by a token: `PATRON_TOKEN` for commands, `Authorization: Bearer TOKEN` for HTTP, never in an
address. GET /me says what you may do and what your holds bind, GET /wallet what a project has left. Amounts over
HTTP are integer micro-dollars (1000000 is $1).

## The loop

estimate (free) -> plan (free) -> dryrun (a short burst on the real machine; some cents) -> amend -> fund (holds the
upper bound) -> launch -> watch -> compare -> note.

    patron estimate --devices local --depths 1,2,3 --minutes 5 --json
    patron dryrun --depth 2 --steps 100 --name first --yes --json
    patron launch --run first --yes --json
    patron watch --run first --json
    patron journal --add "Depth 2 learns in a minute." --kind result --run first

Over HTTP, under /api: POST /estimate, /runs, /runs/RUN/dryrun, wait, POST /runs/RUN/fundings, /runs/RUN/launch,
wait, GET /compare, POST /notes. To wait, GET /events?run=RUN&cursor=C&wait_s=60, with the `cursor` of the answer
before; do not poll faster. `?fields=a,b` keeps an answer small.

- Read notes before you propose: those of kind `failed` have what was tried and did not work. Write yours: a second
  agent goes on from them.
- Metrics: keys=train/loss,val/bpb, runs=A,B. `source` says mlflow or events, `mirror_lag_s` how far MLflow is behind.
  Thinned series keep each bucket's lowest and highest; around=STEP has all points there.
- An Idempotency-Key (--key) goes with all that spends or creates: one for each intent, the same for each retry.
- Code of your own: `code` in POST /runs, or `patron dryrun --workload GIT_URL@BRANCH`, on rented machines. A try:
  edit on a branch or as a `patch`, dryrun, five minutes, keep or revert, a note of the verdict; several at once.
- With --json a command prints one JSON object, with --fields a,b only these keys, and progress as JSON lines on
  stderr. Each error has code, message, `next` (can be done as it stands) and `retryable`.
"""
_NEVER = """## Never

- Never retry with a new key what may have been done: ask again under the old one, or look at the run first.
- Never launch again after `cuda_oom` or `diverged` without a change.
- Never put a token into an address, a note, a spec or a log. Never write into run directories or delete them.
- Never fund above what you can defend in a note. What waits for approval waits: a person sees it in the lab.

## At 3 am

- **503 or exit 5, the database is busy**: `retryable` is true. The same call with the same key after `Retry-After`.
- **The server is down or a call broke off**: nothing that runs depends on it. Do the same with the same key once
  GET /health answers; `patron watch --run RUN` needs no server.
- **Money is out** (`paused`, reason out_of_funds): a checkpoint is saved. Within your allowance POST
  /runs/RUN/resume goes on there; beyond it ask a person.
"""


def skill() -> str:
    """The page in Markdown."""
    return "\n".join([_FRONT, _INTRO, *_tables(), _NEVER])


def install(folder: Path) -> Path:
    """As an agent's skill: DIR/patron/SKILL.md. Returns the file."""
    file = folder / "patron" / "SKILL.md"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(skill(), encoding="utf-8")
    return file


def flags(notebook: Path) -> list[str]:
    """The flags of a notebook, from its arguments' class."""
    tree = ast.parse(notebook.read_text(encoding="utf-8"))
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name.endswith("Arguments")]
    fields = [node for each in classes for node in each.body if isinstance(node, ast.AnnAssign)]
    names = [field.target.id for field in fields if isinstance(field.target, ast.Name)]
    return [f"--{name.replace('_', '-')}" for name in names]


def _tables() -> Iterator[str]:
    yield "## Commands: patron NAME, with --help for what a flag takes\n"
    files = notebooks() | {name: _module(name) for name in _OF_AGENTS}
    yield from (f"- {name}: {' '.join(flags(file))}" for name, file in files.items())
    yield "- estimate, dryrun, search and sweep take a spec: --depth --steps --set KEY=VALUE --spec FILE;"
    yield "  dryrun also --on --device --spot, or --workload with --param KEY=VALUE"
    yield "- for a machine's owner: " + ", ".join(name for name in TABLE if name not in _OF_AGENTS)
    yield "\nExit codes: 0 done, 1 our fault, 2 bad arguments (all at once), 3 refused (do its `next`),"
    yield "4 a --yes is missing, 5 busy (again, same --key), 6 what was followed did not succeed, 7 --timeout-s is"
    yield "over, it goes on.\n"
    yield "## Routes under /api (schemas: GET /api/openapi.json)\n"
    yield f"`?` query; `{{...}}` JSON body, at least {{}}; `*` is required; K: with an {KEY} header.\n"
    yield from (f"- {call(each)}: {each.summary}" for each in operations() if not each.for_a_person)
    yield "- For a person alone: " + "; ".join(call(each) for each in operations() if each.for_a_person)
    said = sorted({(status, code) for code, status in STATUS.items()})
    grouped = (f"{status} {' '.join(code for _, code in each)}" for status, each in groupby(said, itemgetter(0)))
    yield "\nHTTP status by error code: " + ", ".join(grouped) + "."
    yield "\n## States, and what to do\n"
    for state in RunState:
        yield f"- {state}: {_unless_said(state, STATE_SENTENCE[state])}Next: {next_step_of_state(state)}."
    yield "\n## Why an attempt ended\n"
    for state in dict.fromkeys(NEXT_STATE.values()):
        yield f"-> {state}:"
        yield from (f"- {reason}: {SENTENCE[reason]}" for reason in EndReason if NEXT_STATE[reason] == state)
    yield "\n## Limits\n"
    yield from (f"- scope {scope}: {SCOPE_WORDS[scope]}" for scope in SCOPES)
    yield "- allowance: " + ", ".join(Allowance.__dataclass_fields__) + ". Holds count; what is released is free again."
    yield f"- kinds of notes: {', '.join(KINDS)}"
    yield "- MCP: `patron mcp` over stdio, POST /mcp over HTTP: a tool for each route"
    yield f"- MLflow's own MCP server reads the mirror: MLFLOW_TRACKING_URI={_tracking()} uvx mlflow mcp run\n"


def call(route: Operation) -> str:
    """A route and what it takes, as the page has it."""
    return f"{route.method} {route.path.removeprefix(PREFIX)}{route.takes}"


def _unless_said(state: str, sentence: str) -> str:
    return "" if sentence.removesuffix(".").lower() == state else f"{sentence} "


def _module(command: str) -> Path:
    return Path(__file__).parents[1] / "commands" / f"{command}.py"


def _tracking() -> str:
    uri = settings.tracking_uri()
    return uri if uri.startswith("http") else "sqlite:///$PATRON_HOME/mlflow.db"
