"""A spec through its one door: the same from flags, key=value and a file, on the command line as in the core."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from patron_core import verbs
from patron_core.errors import InvalidInput, NotFound, Refused
from patron_core.notebook import Lab
from patron_core.store import Run, Store
from patron_core.ui.flags import parse_arguments
from patron_core.verbs.next_steps import plan_command
from patron_core.verbs.spec_door import NAMED, asked_fields, spec_on
from trainer.contract.spec import UNMEASURED, TrainSpec

Load = Callable[[str], ModuleType]
H100 = verbs.device_named(None, "H100")
HERE = verbs.device_named(None, "local")


def parsed(notebook: Load, *argv: str) -> Any:
    kind = notebook("2_dryrun").DryrunArguments
    return parse_arguments(kind, argv, prog="2_dryrun.py", description="")


@pytest.mark.parametrize("target", [verbs.Target(), verbs.Target(executor="sky", device="H100")])
@pytest.mark.parametrize(
    "given",
    [
        {"depth": 8},
        {"depth": 2, "num_steps": 30, "eval_every_steps": 7, "data": "path:/a b/[1]", "device_batch_size": 4},
        {"depth": 4, "compile": False, "features": {"smear": False}, "learning_rates": {"matrices": 0.01}},
        {"depth": 4, "tokenizer_chars": 5000, "data_shards": 3, "data": "climbmix", "batch_tokens": 2**19},
    ],
)
def test_the_command_that_is_printed_makes_the_very_spec(
    notebook: Load, given: dict[str, Any], target: verbs.Target
) -> None:
    device = HERE if target.is_local else H100
    spec = spec_on(device, given)
    _, _, *argv = shlex.split(plan_command(spec, target))
    args = parsed(notebook, *argv)
    assert spec_on(device, args.given_fields() | {"depth": args.depth}) == spec


def test_an_estimate_is_of_the_spec_that_a_dryrun_plans() -> None:
    for device in ("local", "H100"):
        (row,) = verbs.estimates(None, depths=[4], devices=[device], spec={"lr_scale": 2})
        assert row.spec == spec_on(verbs.device_named(None, device), {"depth": 4, "lr_scale": 2})
    assert (row.spec.data, row.spec.eval_tokens) == ("climbmix", TrainSpec(depth=4).eval_tokens)
    assert spec_on(HERE, {"depth": 4}).eval_tokens == 65536


def test_every_problem_is_told_at_once_with_the_names_that_are_near(
    notebook: Load, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "list.json").write_text("[]")
    flags = ("--set", "evl_every=3", "--set", "num_step=4", "--set", "seed=-1", "--set", "x", "--vocab-size", "3")
    with pytest.raises(SystemExit) as ended:
        parsed(notebook, *flags, "--steps", "5", "--set", "num_steps=6", "--spec", str(tmp_path / "list.json"))
    said = capsys.readouterr().err
    assert ended.value.code == 2
    for words in (
        "evl_every: unknown key; did you mean eval_every",
        "num_step: unknown key; did you mean num_steps",
        "seed: -1; allowed 0 to",
        "'x': not key=value",
        "--vocab-size: '3': not allowed [at least 272",
        "num_steps: given twice, by --steps and by key=value",
        "a spec is a JSON object, not list",
    ):
        assert words in said


def test_a_file_is_beaten_by_flags_and_may_be_any_runs_own(tmp_path: Path) -> None:
    own = spec_on(H100, {"depth": 3, "lr_scale": 2.0, "learning_rates": {"wte": 0.3}})
    file = tmp_path / "spec.json"
    file.write_text(own.to_json())
    assert TrainSpec.from_dict(asked_fields({}, file=str(file))) == own
    changed = asked_fields({"lr_scale": 0.5}, settings=["learning_rates.wte=0.1", "final_lr_frac=0.2"], file=str(file))
    assert (changed["lr_scale"], changed["learning_rates"], changed["final_lr_frac"]) == (0.5, {"wte": 0.1}, 0.2)
    assert changed["depth"] == 3


def test_flags_of_a_spec_beside_a_planned_run_are_refused_unless_it_is_amended(
    notebook: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed(notebook, "--run", "r1", "--steps", "5", "--set", "seed=1")
    assert "--set, --steps would change it" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parsed(notebook, "--run", "r1", "--amend")
    assert "name the run (--run) and what is to change" in capsys.readouterr().err
    assert parsed(notebook, "--run", "r1", "--amend", "--steps", "5").given_fields() == {"num_steps": 5}


def test_what_a_dryrun_does_not_measure_changes_without_another(runs: dict[str, Run], store: Store) -> None:
    run = runs["proven"]
    before = TrainSpec.from_dict(run.spec)
    changed = verbs.amend(store, run.id, changes={"num_steps": 90, "lr_scale": 3.0}, actor="ada")
    after = TrainSpec.from_dict(changed.spec)
    assert (after.num_steps, after.lr_scale, after.shape()) == (90, 3.0, before.shape())
    assert changed.dryrun is not None
    assert changed.dryrun["spec_hash"] == changed.spec_hash == after.hash() != run.spec_hash
    assert (changed.estimate or {})["num_steps"] == 90
    with pytest.raises(InvalidInput, match=r"num_step: unknown key.*vocab_size: the dryrun measured it") as caught:
        verbs.amend(store, run.id, changes={"vocab_size": 600, "num_step": 1}, actor="ada")
    assert len(caught.value.problems) == 2
    with pytest.raises(Refused, match="the dryrun found 40000000"):
        verbs.amend(store, run.id, changes={"num_steps": 10**7}, actor="ada")


def test_the_shape_of_a_spec_is_all_but_what_no_dryrun_measures() -> None:
    spec = spec_on(HERE, {"depth": 2, "num_steps": 50})
    other = {"num_steps": 70, "lr_scale": 0.1, "seed": 7, "eval_every_steps": 3, "checkpoint_every_s": 9.0}
    assert spec_on(HERE, {**spec.to_dict(), **other}).shape() == spec.shape()
    for changed in ({"depth": 3}, {"batch_tokens": 8192}, {"data_shards": 1}, {"compile": True}, {"sequence_len": 128}):
        assert spec_on(HERE, {**spec.to_dict(), **changed}).shape() != spec.shape()
    assert set(NAMED.values()) | UNMEASURED <= set(TrainSpec.__dataclass_fields__)


def test_a_field_that_came_later_leaves_the_hash_of_earlier_runs_alone() -> None:
    spec = TrainSpec(depth=2)
    assert "tokenizer_chars" not in json.loads(spec.to_json())
    assert TrainSpec.from_json(spec.to_json()).hash() == spec.hash()
    assert TrainSpec(depth=2, tokenizer_chars=9000).hash() != spec.hash()


def test_curves_come_against_whatever_is_asked_for_and_never_empty(runs: dict[str, Run], store: Store) -> None:
    lab = Lab(store, project="lab", actor="ada")
    run = runs["better"]
    frame = lab.metrics([run.name, runs["finished"]], ["val/bpb"], x=["step", "tokens", "usd"])
    mine = frame.filter(frame["run"] == run.id)
    assert set(frame["source"]) <= {"mlflow", "record"}
    assert mine["tokens"].to_list() == [
        step * TrainSpec.from_dict(run.spec).recipe().batch_tokens for step in mine["step"]
    ]
    assert mine["usd"].is_sorted()
    with pytest.raises(NotFound, match="val/bpb"):
        lab.metrics(run, ["val/bpbb"])
    with pytest.raises(InvalidInput, match="allowed step, tokens, flops, seconds, usd"):
        lab.metrics(run, ["val/bpb"], x=["hours"])
    assert "in the wallet" in lab._repr_html_()
