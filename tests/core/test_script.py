"""The face on the command line: flags from a model, every problem at once, one JSON object, honest exit codes."""

from __future__ import annotations

import html
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from patron_core.errors import Busy, Conflict, InvalidInput, NotFound, Refused
from patron_core.rundir.places import Unreachable
from patron_core.ui.commands import is_command
from patron_core.ui.script import Arguments, Session, open_session, parse_arguments


class Args(Arguments):
    depth: int = Field(default=4, ge=1, le=64, description="depth of the model")
    depths: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(default=(6, 8), description="depths, 100 % of them")
    budget: float | None = Field(default=None, gt=0, description="dollars")
    kind: Literal["note", "failed"] | None = Field(default=None, description="kind of note")
    follow: bool = Field(default=True, description="keep looking")
    yes: bool = Field(default=False, description="confirm")
    run_name: str = Field(default="", description="name")


def parse(*argv: str) -> Args:
    return parse_arguments(Args, argv, prog="x", description="What x does.")


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as ended:
        parse(*argv)
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err


def test_without_flags_the_defaults_hold() -> None:
    assert parse() == Args()


def test_every_kind_of_flag_is_read() -> None:
    given = ("--depth", "6", "--depths", "2, 4", "--budget", "0.5", "--kind=failed", "--no-follow", "--yes", "--json")
    args = parse(*given, "--run-name", "a b")
    assert (args.depth, args.depths, args.budget, args.kind) == (6, (2, 4), 0.5, "failed")
    assert (args.follow, args.yes, args.json_output, args.run_name) == (False, True, True, "a b")


def test_help_names_every_flag_with_its_range_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("--help")
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for part in ("What x does.", "--depth N", "(default 4) [at least 1, at most 64]", "--depths A,B,...", "100 % of"):
        assert part in said
    assert "--no-follow" in said
    assert "note|failed" in said


def test_all_problems_are_told_at_once_with_what_is_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "--depth", "0", "--depths", "1,99,x", "--kind", "poem", "--what", "now", "--budget")
    assert "--depth: '0': not allowed [at least 1, at most 64]" in said
    assert "--depths: '99'" in said
    assert "--depths: 'x'" in said
    assert "--kind: 'poem'" in said
    assert "--what: unknown argument" in said
    assert "--budget: its value is missing" in said
    assert "next: patron x --help" in said


def test_with_json_the_problems_are_one_object_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("--json", "--depth", "0", "--yes=perhaps")
    assert ended.value.code == 2
    shown = capsys.readouterr()
    error = json.loads(shown.out)["error"]
    assert shown.out.count("\n") == 1
    assert error["code"] == "invalid_input"
    assert any("perhaps" in problem for problem in error["problems"])


def test_flags_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--dep: unknown argument" in refused(capsys, "--dep", "3")


@pytest.mark.parametrize("leading", [[], ["--"]])
def test_argv_is_read_only_where_the_notebook_is_the_program(
    leading: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "nb.py"
    monkeypatch.setattr(sys, "argv", [str(file), *leading, "--depth", "7"])
    shared: dict[str, Any] = {"file": str(file), "description": ""}
    assert open_session(Args, mode="script", **shared).args.depth == 7
    assert open_session(Args, mode="run", **shared).args.depth == 4
    elsewhere = open_session(Args, mode="script", file=str(tmp_path / "other.py"), description="")
    assert not elsewhere.is_script
    assert elsewhere.args.depth == 4


def test_with_json_nothing_else_reaches_stdout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "nb.py"
    monkeypatch.setattr(sys, "argv", [str(file), "--json"])
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # put back afterwards
    session = open_session(Args, mode="script", file=str(file), description="")
    print("a library says hello")
    session.say("working")
    session.status("step 1")
    session.emit({"loss": float("nan"), "path": Path("a"), "many": (1, float("inf"))}, "text for people")
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"loss": None, "path": "a", "many": [1, None]}
    assert shown.out.count("\n") == 1
    assert shown.err.splitlines() == [
        "a library says hello", '{"said": "working"}', '{"status": "step 1"}',
    ]  # fmt: skip


def test_fields_keep_an_answer_small_and_name_what_is_not_there() -> None:
    session, out = script(json=True, fields="loss, colour")
    session.emit({"loss": 1.5, "path": "a"})
    said = json.loads(out.getvalue())
    assert said == {"loss": 1.5, "no_such_fields": ["colour"], "fields": ["loss", "path"]}


def script(**given: Any) -> tuple[Session[Args], io.StringIO]:
    out = io.StringIO()
    return Session(Args(**given), is_script=True, out=out, prog="x", argv=["--json", "--depth", "4"]), out


def raises(error: BaseException) -> Any:
    def verb() -> None:
        raise error

    return verb


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (NotFound("no run", next="list them"), 2, "not_found"),
        (Refused("no money", next="deposit"), 3, "refused"),
        (Conflict("changed", next="look again"), 3, "conflict"),
        (Busy("the database is busy", next="fuser patron.db"), 5, "busy"),
        (Unreachable("the bucket does not answer", next="check the network"), 5, "busy"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("division by zero"), 1, "internal"),
    ],
)
def test_what_a_verb_raises_ends_a_script_with_its_code(error: BaseException, code: int, word: str) -> None:
    session, out = script(json=True)
    with pytest.raises(SystemExit) as ended:
        session.call(raises(error))
    assert ended.value.code == code
    said = json.loads(out.getvalue())["error"]
    assert said["code"] == word
    assert is_command(said["next"])
    assert said["retryable"] is (code in (5, 130))


@pytest.mark.parametrize(("error", "code"), [(Busy("busy", next="wait"), 5), (ZeroDivisionError("no"), 1)])
def test_what_a_cell_did_not_expect_has_the_one_shape_too(error: Exception, code: int) -> None:
    """As sys.excepthook gets it."""
    session, out = script(json=True)
    with pytest.raises(SystemExit) as ended:
        session.end_by_error(type(error), error, None)
    assert ended.value.code == code
    said = json.loads(out.getvalue())["error"]
    assert said["retryable"] is (code == 5)


def test_without_json_an_error_says_what_to_do_next_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    session, out = script()
    with pytest.raises(SystemExit):
        session.call(raises(Refused("no money", next="deposit $1")))
    assert out.getvalue() == ""
    assert capsys.readouterr().err == "refused: no money: deposit $1\nnext: patron lab\n"


def test_a_missing_confirmation_ends_a_script_with_4_and_nothing_elsewhere() -> None:
    session, out = script(json=True)
    session.confirm(True, "it costs money", "--yes")
    with pytest.raises(SystemExit) as ended:
        session.confirm(False, "it costs money", "--yes")
    assert ended.value.code == 4
    assert json.loads(out.getvalue())["error"]["next"] == "patron x --depth 4 --yes"
    Session(Args(), is_script=False, out=out).confirm(False, "it costs money", "--yes")


def test_ctrl_c_says_what_goes_on_and_how_to_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    session, _ = script()
    session.on_interrupt = "the run goes on"
    with pytest.raises(SystemExit) as ended:
        session.call(raises(KeyboardInterrupt()))
    assert ended.value.code == 130
    assert "the run goes on" in capsys.readouterr().err


def test_in_an_app_an_error_is_carried_to_be_shown_and_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    session = Session(Args(), is_script=False, out=sys.stdout)
    outcome = session.call(raises(Refused("the wallet has $0", next="deposit")))
    assert outcome.failed
    assert "the wallet has $0" in html.unescape(outcome.error_markdown())
    assert "<code>deposit</code>" in outcome.error_markdown()
    session.emit({"a": 1}, "text")
    session.say("x")
    session.end(3)
    assert capsys.readouterr() == ("", "")
    assert session.call(lambda: 5).value == 5


@pytest.mark.parametrize(
    ("error", "message", "next_"),
    [
        (
            Refused("no depth fits", next="take more --minutes"),
            "no depth fits: take more --minutes",
            "patron lab",
        ),
        (InvalidInput(["depth: 0"], next="correct it"), "depth: 0: correct it", "patron x --help"),
        (Refused("no", next="patron x --depth 4"), "no", "patron lab"),  # what has just failed
        (Refused("no money", next="sky api start"), "no money", None),
    ],
)
def test_next_is_a_command_and_another_one_than_what_failed(
    error: Refused | InvalidInput, message: str, next_: str | None
) -> None:
    session, out = script(json=True)
    with pytest.raises(SystemExit):
        session.call(raises(error))
    said = json.loads(out.getvalue())["error"]
    assert said["message"] == message
    assert said["next"] == (next_ or error.next)


def test_what_was_just_done_is_not_what_comes_next(capsys: pytest.CaptureFixture[str]) -> None:
    session, out = script()
    session.emit({"next": "patron x --depth 4"}, "it went well\nnext: patron x --depth 4")
    assert out.getvalue() == "it went well\nnext: patron lab\n"


PROGRAM = """
import marimo
app = marimo.App()
with app.setup:
    import marimo as mo
    from patron_core.ui.script import Arguments, open_session
@app.cell
def one():
    session = open_session(Arguments, mode=mo.app_meta().mode, file=__file__, description="")
    return (session,)
@app.cell
def two(session):
    session
    {body}
    return
if __name__ == "__main__":
    app.run()
"""


@pytest.mark.parametrize(
    ("body", "code", "word"),
    [
        ("{}['missing']", 1, "internal"),
        ("import patron_core.errors as e; raise e.Busy('the database is busy', next='fuser x')", 5, "busy"),
        ("raise KeyboardInterrupt", 130, "interrupted"),
    ],
)
def test_what_no_cell_catches_is_one_object_too(tmp_path: Path, body: str, code: int, word: str) -> None:
    file = tmp_path / "nb.py"
    file.write_text(PROGRAM.replace("{body}", body))
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, file, "--json"], capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == code, done.stderr
    assert json.loads(done.stdout)["error"]["code"] == word
    assert ("Traceback" in done.stderr) is (word == "internal")
