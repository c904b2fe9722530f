"""What can be known for nothing is known before money is held: data, its tokens, the run's place, the server."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from corpus import write_corpus

from patron_core import verbs
from patron_core.errors import Busy, Refused
from patron_core.lifecycle.workload import check_spec
from patron_core.machines.target import Target
from patron_core.states import RunState
from patron_core.store import Run, Store, ledger, runs
from patron_core.verbs import free_checks
from patron_core.verbs.candidates import Candidates
from patron_core.verbs.question import Question
from patron_core.verbs.spec_door import LOCAL_SPEC

SHAPE: dict[str, Any] = {"depth": 1, "sequence_len": 64, "vocab_size": 512, "batch_tokens": 256}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    write_corpus(folder, 2)
    return folder


@pytest.fixture
def rich(sqlite_store: Store) -> Store:
    verbs.deposit(sqlite_store, usd_micros=10_000_000, key="one", actor="ada")
    return sqlite_store


def refused(store: Store, run: Run) -> str:
    """Nothing was held, and the refusal is kept with the run."""
    with pytest.raises(Refused) as caught:
        verbs.dryrun(store, run.id, actor="ada")
    assert runs.get_run(store, run.id).state is RunState.DRAFT
    assert ledger.wallet(store, run.project).held_usd_micros == 0
    kept = verbs.view(store, run.id).refused
    assert kept is not None
    assert kept["message"] == caught.value.message
    return caught.value.message


def test_steps_that_the_text_does_not_last_for(rich: Store, corpus: Path) -> None:
    run = verbs.plan(rich, spec=SHAPE | {"num_steps": 90_000, "data": f"path:{corpus}"}, actor="ada")
    said = refused(rich, run)
    have = free_checks.train_tokens(check_spec(run.spec))
    assert have is not None
    most = have // 256
    assert f"choose num_steps of at most {most}, or more text" in said
    kept = verbs.view(rich, run.id).refused
    assert kept is not None
    assert verbs.view(rich, run.id).next == kept["next"]  # and not the dryrun that was refused
    words = shlex.split(kept["next"])
    assert words[words.index("--steps") + 1] == str(most)

    fitting = verbs.plan(rich, spec=run.spec | {"num_steps": most}, actor="ada")
    assert verbs.dryrun(rich, fitting.id, actor="ada").state is RunState.DRYRUN


def test_text_that_is_gone(rich: Store, corpus: Path) -> None:
    run = verbs.plan(rich, spec=SHAPE | {"num_steps": 20, "data": f"path:{corpus}"}, actor="ada")
    corpus.rename(corpus.with_name("moved"))
    assert "there is no such file or folder" in refused(rich, run)


def test_text_that_cannot_be_used_is_refused_in_the_trainers_words(rich: Store, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one sentence")
    run = verbs.plan(rich, spec=SHAPE | {"num_steps": 20, "data": f"path:{tmp_path / 'a.txt'}"}, actor="ada")
    assert "one document of 12 characters" in refused(rich, run)


def test_much_text_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("x" * 5000)
    monkeypatch.setattr(free_checks, "_counted", lambda spec: pytest.fail("it was counted"))
    monkeypatch.setattr(free_checks, "COUNTED_BYTES", 4000)
    assert free_checks.train_tokens(check_spec(SHAPE | {"data": f"path:{tmp_path}"})) is None
    assert free_checks.train_tokens(check_spec(SHAPE | {"data": "climbmix"})) is None


@pytest.mark.parametrize("place", ["there", "nowhere"])
def test_the_bucket_has_to_take_what_is_written(
    rich: Store, corpus: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("PATRON_RUNS", f"{bucket}/runs" if place == "there" else "s3://no-such-bucket-at-all/runs")
    run = verbs.plan(rich, spec=SHAPE | {"num_steps": 20, "data": f"path:{corpus}"}, actor="ada")
    if place == "there":
        assert verbs.dryrun(rich, run.id, actor="ada").state is RunState.DRYRUN
    else:
        with pytest.raises(Refused, match=r"cannot be written: .*no-such-bucket-at-all"):
            verbs.dryrun(rich, run.id, actor="ada")
        assert ledger.wallet(rich, "lab").held_usd_micros == 0


def test_a_server_that_is_down_is_told_before_money_is_held(rich: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def down() -> None:
        raise Busy("SkyPilot: no API server answers", next="sky api start")

    monkeypatch.setattr("patron_core.executors.skypilot.check_server", down)
    target = Target(executor="sky", device="H100", usd_micros_per_hour=3_000_000, only="slurm/lab/gpu")
    run = verbs.plan(rich, spec=SHAPE | {"num_steps": 20}, target=target, actor="ada")
    with pytest.raises(Busy, match="no API server"):
        verbs.dryrun(rich, run.id, actor="ada")
    assert ledger.wallet(rich, "lab").held_usd_micros == 0


def test_a_machine_that_skypilot_does_not_offer_is_told_before_money_is_held(
    rich: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def none(machine: Mapping[str, object]) -> None:
        asked.append(machine["accelerator"])
        raise Refused("SkyPilot: no such machine", next="sky show-gpus")

    monkeypatch.setattr("patron_core.executors.skypilot.check_server", lambda: None)
    monkeypatch.setattr("patron_core.executors.skypilot.check_offered", none)
    target = Target(executor="sky", device="H100", usd_micros_per_hour=3_000_000, only="slurm/lab/gpu")
    run = verbs.plan(rich, spec=SHAPE | {"num_steps": 20}, target=target, actor="ada")
    with pytest.raises(Refused, match="no such machine"):
        verbs.dryrun(rich, run.id, actor="ada")
    assert asked == ["H100"]
    assert ledger.wallet(rich, "lab").held_usd_micros == 0


def test_a_search_plans_no_more_steps_than_its_text_has(rich: Store, corpus: Path) -> None:
    question = Question(
        minutes=5.0,
        time_limit_minutes=6.0,
        spec=LOCAL_SPEC | SHAPE | {"device_batch_size": 4, "data": f"path:{corpus}"},
    )
    found = Candidates(rich, question, say=lambda line: None)
    _, _, (candidate, *_) = next(found.each())
    fit = found.fit(candidate, 1_000_000).fit
    have = free_checks.train_tokens(fit.spec)
    assert have is not None
    assert fit.limit == "tokens"
    assert fit.estimate.recipe.num_steps == have // 256


def test_a_search_on_too_little_text_says_so_and_blames_nothing_else(
    rich: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patron_core.machines.this_machine.measured_profile", lambda store: {})
    (tmp_path / "a.txt").write_text("\n\n".join(f"{i} one short paragraph of it" for i in range(300)))
    question = Question(
        depths=(1, 2), spec=LOCAL_SPEC | SHAPE | {"device_batch_size": 4, "data": f"path:{tmp_path / 'a.txt'}"}
    )
    with pytest.raises(Refused, match=r"the data has \d+ tokens to train on, \d+ steps of 256") as caught:
        verbs.search(rich, question, actor="ada", key="k")
    assert "busy" not in caught.value.message
    assert "--minutes" not in caught.value.next
