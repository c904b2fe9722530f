"""Dollars at the borders: flags, forms, what an hour may cost, what burns, what is taken back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field
from runs_in_states import AMOUNT, made

from patron_core import verbs
from patron_core.errors import Conflict, InvalidInput, Refused
from patron_core.estimate import Verdict
from patron_core.lifecycle import supervisor
from patron_core.money import from_usd, parse_usd, typed_usd
from patron_core.states import EndReason, RunState
from patron_core.store import Store, attempts, ledger, runs
from patron_core.ui.script import Arguments, Usd, parse_arguments

ROOT = Path(__file__).parents[2]


class Paying(Arguments):
    budget: Usd = Field(default=0.05, gt=0, le=1e6, description="dollars")
    fund: Usd | None = Field(default=None, gt=0, le=1e6, description="dollars")


def parsed(*argv: str) -> Paying:
    return parse_arguments(Paying, argv, prog="x", description="")


def test_a_flag_takes_dollars() -> None:
    assert (parsed().budget, parsed().fund) == (0.05, None)
    assert [from_usd(parsed("--budget", text).budget) for text in ("0.10", "$1,234.5", "3")] == [
        100_000,
        1_234_500_000,
        3_000_000,
    ]


@pytest.mark.parametrize(
    ("text", "instead"), [("0,10", "write 0.10"), ("1e3", "write 1000"), ("nan", "4.36"), ("1.000,5", "write 1000.5")]
)
@pytest.mark.parametrize("flag", ["--budget", "--fund"])
def test_a_flag_refuses_what_could_be_read_in_two_ways(
    capsys: pytest.CaptureFixture[str], flag: str, text: str, instead: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(flag, text)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert flag in said
    assert instead in said


@pytest.mark.parametrize("usd_micros", [1, 3_100, 50_000, 100_000, 4_360_000, 10**12])
def test_what_a_command_is_told_to_type_is_that_amount(usd_micros: int) -> None:
    assert parse_usd(typed_usd(usd_micros)) == usd_micros == from_usd(float(typed_usd(usd_micros)))


def test_dollars_become_micro_dollars_in_one_place() -> None:
    by_hand = re.compile(r"round\(1e6|1e6 \* |\* 1e6|\* 1_000_000|usd_micros\S* / 1e6")
    files = [*ROOT.glob("notebooks/*.py"), *ROOT.glob("patron_core/**/*.py")]
    allowed = {"offers.py"}  # a catalog's price is rounded up
    found = [str(file) for file in files if file.name not in allowed and by_hand.search(file.read_text())]
    assert found == []


@pytest.mark.parametrize(("cap", "allowed"), [("1.00", False), ("1000", True), (None, True)])
def test_the_hourly_cap_holds_for_estimates_too(
    home: Path, monkeypatch: pytest.MonkeyPatch, cap: str | None, allowed: bool
) -> None:
    if cap is None:
        monkeypatch.delenv("PATRON_MAX_USD_PER_HOUR", raising=False)
    else:
        monkeypatch.setenv("PATRON_MAX_USD_PER_HOUR", cap)
    spec = {"num_steps": 1000}
    (row,) = verbs.estimates(None, depths=[8], devices=["H100"], spec=spec, budget_s=1e6, budget_usd_micros=10**12)
    assert (row.verdict is not Verdict.OVER_BUDGET) == allowed
    assert ("an hour, and PATRON_MAX_USD_PER_HOUR allows $1.00" in row.sentence) == (not allowed)


def test_only_what_has_a_machine_burns(store: Store) -> None:
    run = made(store, RunState.FUNDED)
    assert verbs.burn_usd_micros_per_hour(store) == 0
    verbs.launch(store, run.id, actor="ada", now=2.0)
    attempt = attempts.for_run(store, run.id)[0]
    assert verbs.burn_usd_micros_per_hour(store) == 0  # an intent, and nothing else
    with store.begin() as conn:
        attempts.submitted(conn, attempt.id, handle={"key": attempt.id}, now=3.0)
    assert verbs.burn_usd_micros_per_hour(store) == attempt.usd_micros_per_hour
    with store.begin() as conn:
        attempts.ended(conn, attempt.id, reason=EndReason.LOST, exit_code=None, evidence={}, now=4.0)
        runs.transition(conn, run.id, old=RunState.LAUNCHING, new=RunState.RECOVERING, actor="s", now=4.0)
    assert verbs.burn_usd_micros_per_hour(store) == 0


def test_a_rented_machine_burns_from_its_first_second(store: Store, make_run: Any) -> None:
    run = make_run(store, executor="sky")
    with store.begin() as conn:
        for old, new in (("draft", "dryrun"),):
            runs.transition(conn, run.id, old=RunState(old), new=RunState(new), actor="ada", now=1.0)
        attempt = attempts.create(conn, run, kind="dryrun", usd_micros_per_hour=7, price={}, now=1.0)
        attempts.submitted(conn, attempt.id, handle={"key": attempt.id}, now=1.0)
    assert verbs.burn_usd_micros_per_hour(store) == 0  # it looks for a machine
    with store.begin() as conn:
        attempts.meter(conn, attempt.id, charged_s=15.0, charged_usd_micros=1)
    assert verbs.burn_usd_micros_per_hour(store) == 7


def test_money_is_taken_back_once_a_key(store: Store) -> None:
    verbs.deposit(store, usd_micros=5 * AMOUNT, key="d", actor="ada")
    for _ in range(2):
        found = verbs.withdraw(store, usd_micros=2 * AMOUNT, key="w", actor="ada")
        assert (found.available_usd_micros, found.deposited_usd_micros) == (3 * AMOUNT, 3 * AMOUNT)
    with pytest.raises(Conflict):
        verbs.withdraw(store, usd_micros=AMOUNT, key="w", actor="ada")
    with pytest.raises(Refused, match=r"has \$0.30") as caught:
        verbs.withdraw(store, usd_micros=4 * AMOUNT, key="more", actor="ada")
    assert caught.value.next == "patron lab --project lab --withdraw 0.3 --yes"
    with pytest.raises(InvalidInput):
        verbs.withdraw(store, usd_micros=0, key="none", actor="ada")


def test_a_used_key_launches_again_for_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script asked twice gets the same answer, and a third time, when the run rests, no second launch."""
    monkeypatch.setattr(supervisor, "ensure_running", lambda _: True)
    monkeypatch.setattr("patron_core.verbs.start.repriced_any", lambda *_: None)
    run = made(store, RunState.FUNDED)
    asked: dict[str, Any] = {"usd_micros": AMOUNT, "actor": "ada", "key": "k"}
    assert verbs.offer(store, run.id, usd_micros=AMOUNT, key="k").hold_usd_micros == AMOUNT
    assert verbs.fund_and_launch(store, run.id, **asked, deposit_usd_micros=AMOUNT).state is RunState.LAUNCHING
    assert ledger.run_money(store, run.id).held_usd_micros == 2 * AMOUNT
    with store.begin() as conn:
        attempts.ended(conn, f"{run.id}-train-1", reason=EndReason.PAUSED, exit_code=75, evidence={}, now=3.0)
        runs.transition(conn, run.id, old=RunState.LAUNCHING, new=RunState.PAUSED, actor="s", now=3.0)
    wallet = ledger.wallet(store, "lab")
    assert verbs.offer(store, run.id, usd_micros=AMOUNT, key="k").hold_usd_micros == 0
    assert verbs.fund_and_launch(store, run.id, **asked, deposit_usd_micros=AMOUNT).state is RunState.PAUSED
    assert ledger.wallet(store, "lab") == wallet
    with pytest.raises(Conflict, match=f"usd_micros {AMOUNT}, now with usd_micros None"):
        verbs.fund_and_launch(store, run.id, actor="ada", key="k")


def test_a_running_run_is_topped_up_by_an_explicit_amount(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "ensure_running", lambda _: True)
    monkeypatch.setattr("patron_core.verbs.start.repriced_any", lambda *_: None)
    run = made(store, RunState.RUNNING)
    with pytest.raises(Refused, match="nothing to launch"):
        verbs.offer(store, run.id)
    assert verbs.offer(store, run.id, usd_micros=AMOUNT, key="k").hold_usd_micros == AMOUNT
    for _ in range(2):
        verbs.fund_and_launch(store, run.id, usd_micros=AMOUNT, actor="ada", key="k")
    assert ledger.run_money(store, run.id).held_usd_micros == 2 * AMOUNT
