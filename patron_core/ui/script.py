"""The face of a notebook on the command line: --help, checked arguments, one JSON object, honest exit codes.

A notebook declares its arguments as a pydantic model and calls `open_session`. As a script (`patron search --depths 4
--json`) the flags are parsed from argv; in the editor, as an app and under test the defaults are used. What else
`patron` can run has the same face, by `open_command`.

Exit codes: 0 what was asked was done, 1 a fault of ours, 2 bad arguments, 3 refused (with what to do next), 4 a
confirmation flag is missing, 5 busy or unreachable (try again), 6 the run that was followed did not succeed, 7
`--timeout-s` is over and the run goes on; 130 after Ctrl-C.
"""

from __future__ import annotations

import functools
import getpass
import json
import math
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TextIO, TypeVar

from patron_core import settings
from patron_core.errors import ConfirmationNeeded, InternalError, Interrupted, InvalidInput, PatronError
from patron_core.ui import inert, progress, show
from patron_core.ui.commands import LOOK, as_typed, is_command, is_same, name_of, own_command, speak_utf8, utf8
from patron_core.ui.flags import Arguments, Usd, of_address, parse_arguments
from trainer.contract.masking import masked

if TYPE_CHECKING:
    from patron_core.store import Store
    from patron_core.verbs import RunView

__all__ = ["Arguments", "Outcome", "Session", "Usd", "open_command", "open_session", "parse_arguments"]

NOT_SUCCEEDED = 6  # what was followed came to rest somewhere else
QUIET_STATUS_EVERY_S = 10.0  # of a log file; a terminal is rewritten each time

A = TypeVar("A", bound=Arguments)
T = TypeVar("T")


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What a verb returned, or the error it raised, in the one shape. In scripts an error has ended the process."""

    value: T | None = None
    error: dict[str, Any] | None = None

    @property
    def failed(self) -> bool:
        return self.error is not None

    def error_markdown(self) -> inert.Markdown:
        return inert.error((self.error or {}).get("error", {}))


class Session(Generic[A]):
    """One run of a notebook: its arguments, and where its answers go."""

    def __init__(
        self,
        args: A,
        *,
        is_script: bool,
        out: TextIO,
        prog: str = "",
        argv: Sequence[str] = (),
        visitor: Mapping[str, Any] | None = None,
    ):
        self.args = args
        self._visitor = dict(visitor or {})  # who opened the page, as the gate of `patron serve` says
        self._prog, self._argv = prog, list(argv)
        self._token_name = ""
        self.is_script = is_script
        self.on_interrupt = "what was started goes on without this script"  # said after Ctrl-C
        self.look_again = LOOK  # the command that does, then
        self._out = out
        self._json = is_script and args.json_output
        self._status_at = -math.inf
        self._status_shown = False
        self._told = ""

    def call(self, verb: Callable[..., T], *args: Any, **kwargs: Any) -> Outcome[T]:
        """Call a verb. A PatronError ends a script with its code; elsewhere the outcome carries it to be shown."""
        try:
            return Outcome(value=verb(*args, **kwargs))
        except PatronError as error:
            if self.is_script:
                self.fail(error)
            return Outcome(error=error.to_dict())
        except KeyboardInterrupt:
            if not self.is_script:
                raise
            self.fail(Interrupted(self.on_interrupt, next=self.look_again))
        except Exception as error:
            if not self.is_script:
                raise  # the notebook shows the traceback
            self._fail_unexpected(error)

    @functools.cached_property
    def actor(self) -> str:
        """Who asks: the token's name where there is one, else the account's."""
        if self._token_name:
            return self._token_name
        try:
            return getpass.getuser()
        except (OSError, KeyError):  # an account without a name, in a container
            return "notebook"

    @functools.cached_property
    def key(self) -> str:
        """The idempotency key of this run of the notebook: the one that was given, or one of its own."""
        return getattr(self.args, "key", "") or uuid.uuid4().hex[:12]

    def require(self, flag: str, value: object, *, next: str) -> None:
        """In a script, end with 2 where a flag is missing. Elsewhere it is chosen on the page."""
        if self.is_script and not value:
            self.fail(InvalidInput([f"{flag}: missing"], next=next))

    def open_lab(self, *, make: bool = True) -> Store | None:
        """The lab's store, bound to the token of whoever opened the page, or to PATRON_TOKEN; None where there is none
        and `make` is off. In an editor or an app its error is raised."""
        from patron_core import verbs

        asked = {"make": make, "token_id": self._visitor.get("patron_token", "")}
        asked["origin"] = f"page {self._visitor['patron_address']}" if self._visitor else "script"
        store = self.call(verbs.open_lab, **asked).value if self.is_script else verbs.open_lab(**asked)
        if store is not None and store.token is not None:
            self._token_name = store.token.name
        return store

    def emit(self, answer: Mapping[str, Any], text: str = "") -> None:
        """A script's result: the JSON object with --json, else the text. Nothing in the editor and in apps."""
        self._clear_status()
        said = str(answer.get("next") or "")
        if said and is_same(said, self.command()):  # what was just done is not what comes next
            answer, text = {**answer, "next": LOOK}, text.replace(f"next: {said}", f"next: {LOOK}")
        if self._json:
            typed = {"next": as_typed(str(answer["next"]))} if answer.get("next") else {}
            print(to_json(self._asked_for({**answer, **typed})), file=self._out, flush=True)
        elif self.is_script and text:
            print(inert.terminal(as_typed(text)), file=self._out, flush=True)

    def _asked_for(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Only --fields. What is not there is named: what was asked for is done by now, and is no error any more."""
        wanted = [name.strip() for name in self.args.fields.split(",") if name.strip()]
        unknown = [name for name in wanted if name not in answer]
        kept = {name: answer[name] for name in wanted if name in answer} if wanted else answer
        return kept | {"no_such_fields": unknown, "fields": sorted(answer)} if unknown else kept

    def say(self, line: str) -> None:
        """A line on stderr, in scripts; with --json as JSON."""
        if self._json:
            self._tell({"said": as_typed(line)})
        elif self.is_script:
            self._clear_status()
            print(inert.terminal(as_typed(line)), file=sys.stderr, flush=True)

    def status(self, line: str) -> None:
        """Where things stand: one line that is rewritten on a terminal, and now and then a line elsewhere."""
        line = inert.terminal(line)
        if self._json:
            self._tell({"status": line})
        elif not self.is_script:
            pass
        elif sys.stderr.isatty():
            print(f"\r\x1b[2K{line}", end="", file=sys.stderr, flush=True)
            self._status_shown = True
        elif time.monotonic() - self._status_at >= QUIET_STATUS_EVERY_S:
            self._status_at = time.monotonic()
            print(line, file=sys.stderr, flush=True)

    def follow(self, line: str, seen: RunView | None) -> None:
        """What long work reports: what it says, and the run that it looks at."""
        if line:
            self.say(line)
        if seen is not None:
            self.progress(seen)

    def progress(self, seen: RunView) -> None:
        """How far a run is, as `status`; with --json its figures, whenever one changed."""
        if self._json:
            self._tell(progress.figures(seen))
        else:
            self.status(show.progress_line(seen))

    def _tell(self, line: Mapping[str, Any]) -> None:
        """One JSON object in a line of stderr, unless the one before said the same."""
        said = to_json(line)
        if said != self._told:
            self._told = said
            print(inert.terminal(said), file=sys.stderr, flush=True)

    def confirm(self, given: bool, what: str, flag: str) -> None:
        """In a script, end with 4 unless the confirmation flag was given. Elsewhere a button confirms."""
        if self.is_script and not given:
            self.fail(ConfirmationNeeded(f"{what}; nothing was done", next=self.command(flag)))

    def command(self, *more: str) -> str:
        """This script's own command line, and more."""
        return own_command(self._prog, [*self._argv, *more])

    def end(self, exit_code: int) -> None:
        """End a script whose answer is out. Nothing in the editor and in apps."""
        if self.is_script and exit_code:
            sys.exit(exit_code)

    def fail(self, error: PatronError) -> NoReturn:
        """End a script with the error: its one shape with --json, else its words on stderr; its code in any case."""
        self._clear_status()
        shape = error.to_dict()["error"]
        shape |= self._runnable(error)
        shape["next"] = as_typed(shape["next"])
        if self._json:
            print(to_json({"error": shape}), file=self._out, flush=True)
        else:
            said = inert.terminal(f"{error.code}: {shape['message']}\nnext: {shape['next']}")
            print(said, file=sys.stderr, flush=True)
        sys.exit(error.exit_code)

    def _runnable(self, error: PatronError) -> dict[str, str]:
        """Message and next step, where `next` is a command, and another one than this script's own."""
        help_ = own_command(self._prog, ["--help"])
        if not is_command(error.next):
            advice = f"{error.message.rstrip('.')}: {error.next}" if error.next else error.message
            return {"message": advice, "next": help_ if error.exit_code == InvalidInput.exit_code else LOOK}
        if is_same(error.next, self.command()):
            return {"message": error.message, "next": LOOK if self._prog != LOOK.split()[-1] else help_}
        return {"message": error.message, "next": error.next}

    def _fail_unexpected(self, error: BaseException) -> NoReturn:
        print(inert.terminal("".join(traceback.format_exception(error))), file=sys.stderr)
        self.fail(InternalError(f"{type(error).__name__}: {error}", next="report this, with the traceback above"))

    def end_by_error(self, _kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
        """Python's hook for what nothing caught, a cell's plain code say: it too ends in the one shape."""
        if isinstance(error, PatronError):
            self.fail(error)
        if isinstance(error, KeyboardInterrupt):
            self.fail(Interrupted(self.on_interrupt, next=self.look_again))
        self._fail_unexpected(error)

    def _clear_status(self) -> None:
        if self._status_shown:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
            self._status_shown = False


def open_session(
    model: type[A],
    *,
    mode: str | None,
    file: str,
    description: str,
    request: Mapping[str, Any] | None = None,
    address: Mapping[str, Any] | None = None,
) -> Session[A]:
    """The session of the notebook `file`; `mode` and `request` are those of marimo's `app_meta()`, `address` is what
    the page's address asks for.

    argv is read only where this notebook is the program itself, so that tests and servers keep theirs.
    """
    _allow_matplotlib()
    settings.keep_private()
    is_script = mode == "script" and bool(sys.argv[0]) and Path(sys.argv[0]).resolve() == Path(file).resolve()
    if not is_script:
        visitor = dict(request or {}).get("meta")
        return Session(of_address(model, address or {}), is_script=False, out=sys.stdout, visitor=visitor)
    argv = sys.argv[2:] if sys.argv[1:2] == ["--"] else sys.argv[1:]
    return open_command(model, argv, prog=name_of(Path(file)), description=description)


def open_command(model: type[A], argv: Sequence[str], *, prog: str, description: str) -> Session[A]:
    """The session of `patron PROG` with these arguments. What it raises from here on ends the process in one shape."""
    settings.keep_private()
    speak_utf8()
    argv = utf8(argv)
    args = parse_arguments(model, argv, prog=prog, description=description)
    out = sys.stdout
    if args.json_output:
        sys.stdout = sys.stderr  # so that no library's print spoils the one JSON line
    session = Session(args, is_script=True, out=out, prog=prog, argv=argv)
    sys.excepthook = session.end_by_error
    return session


def to_json(answer: Mapping[str, Any]) -> str:
    """One line of strict JSON: what is not a finite number becomes null, what is a secret ***."""
    return json.dumps(masked(_finite(answer)), sort_keys=True, default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _skip_matplotlib() -> None:
    """Make a notebook that is the program start a quarter faster.

    Where matplotlib is installed (MLflow brings it), marimo's script runner imports it to close figures after each
    cell: 0.5 s of 2, for notebooks that draw with altair. It looks before the first cell runs; `open_session`, in the
    first cell, lets it in again.
    """
    app = getattr(sys.modules.get("__main__"), "app", None)
    if type(app).__module__.startswith("marimo.") and "matplotlib" not in sys.modules:
        sys.modules["matplotlib"] = None  # type: ignore[assignment]  # Python's own way to say: not here


def _allow_matplotlib() -> None:
    if sys.modules.get("matplotlib", ...) is None:
        del sys.modules["matplotlib"]


_skip_matplotlib()
