"""Upstream nanochat from its git folder, unchanged: a checkout in PATRON_NANOCHAT, and what it imports, are needed.

git clone https://github.com/karpathy/nanochat && uv pip install wandb rustbpe
PATRON_NANOCHAT=nanochat pytest tests/test_upstream_nanochat.py
"""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path

import pytest
from corpus import write_corpus
from record import all_events, curve
from test_loop import drive, process_with

from patron_core import settings, verbs
from patron_core.lifecycle.supervisor import Supervisor
from patron_core.rundir.rundir import RunDir, lineage
from patron_core.states import EndReason, RunState
from patron_core.store import Store, attempts

CHECKOUT = os.environ.get("PATRON_NANOCHAT", "")
MISSING = [name for name in ("wandb", "rustbpe", "pyarrow") if importlib.util.find_spec(name) is None]
STEPS = 40

pytestmark = [
    pytest.mark.skipif(not CHECKOUT, reason="PATRON_NANOCHAT names no checkout of nanochat"),
    pytest.mark.skipif(bool(MISSING), reason=f"nanochat needs {', '.join(MISSING)}"),
]


def write_shards(folder: Path, texts: list[str]) -> None:
    """As it expects them: the last one is for validation."""
    import pyarrow
    from pyarrow import parquet

    folder.mkdir(parents=True)
    for name, part in (("shard_00000.parquet", texts[4:]), ("shard_06542.parquet", texts[:4])):
        parquet.write_table(pyarrow.table({"text": part}), folder / name, row_group_size=8)


@pytest.mark.timeout(900)
def test_it_trains_is_killed_and_goes_on_from_its_own_checkpoint(
    living_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    write_corpus(corpus, 60)
    texts = [path.read_text() for path in sorted(corpus.rglob("*")) if path.is_file()]
    write_shards(settings.cache() / "foreign" / "nanochat" / "base" / "base_data_climbmix", texts)
    store = Store.open()
    supervisor = Supervisor(store=store)
    verbs.deposit(store, usd_micros=20_000_000, key="first", actor="ada")
    parameters = {
        "depth": 1, "num_iterations": STEPS, "max_seq_len": 64, "total_batch_size": 128, "device_batch_size": 1,
        "eval_every": 10, "eval_tokens": 256, "save_every": 10, "vocab_size": 512, "tok_max_chars": 100_000,
    }  # fmt: skip
    question = verbs.CodeQuestion(where=CHECKOUT, parameters=parameters, current=True)
    run = verbs.plan_code(store, question=question, actor="ada", key="one")
    assert run.spec["steps_parameter"] == "num_iterations"
    verbs.dryrun(store, run.id, actor="ada", burst_steps=6)
    run = drive(supervisor, run, lambda seen: seen.state is not RunState.DRYRUN, timeout_s=300)
    assert run.state is RunState.AWAITING_FUNDING, verbs.log_tail(store, run.id)
    assert 0 < run.dryrun["measured"]["step_s"] < run.dryrun["measured"]["wall_s"]
    verbs.fund_and_launch(store, run.id, usd_micros=10_000_000, actor="ada", key="go")
    directory = RunDir(run.run_dir)
    drive(
        supervisor, run, lambda seen: (c := directory.newest_checkpoint()) is not None and c.step >= 10, timeout_s=300
    )
    process_with(str(living_home), "trainer.foreign.run").send_signal(signal.SIGKILL)
    run = drive(supervisor, run, lambda seen: seen.state is RunState.SUCCEEDED, timeout_s=300)

    made = [a for a in attempts.for_run(store, run.id) if a.kind == "train"]
    assert [a.reason for a in made] == [EndReason.LOST, EndReason.COMPLETED]
    events = all_events(directory)
    starts = [event.data["resumed_step"] for event in events if event.kind == "start"]
    assert starts[1] >= 10
    assert starts[1] % 10 == 0
    kept = lineage(events)
    assert [step for step, _ in curve(kept, "train/loss")] == list(range(1, STEPS + 1))
    assert {"train/tokens_per_s", "train/mfu", "train/step_s"} <= {
        key for event in kept if event.kind == "metrics" for key in event.data["metrics"]
    }
    seen = verbs.view(store, run.id)
    assert seen.checkpoint_step == STEPS
    assert run.result["val_bpb"] == seen.val_bpb == curve(kept, "val_bpb")[-1][1]
    row = verbs.compare(store, [run.id])[0]
    assert (row.workload, row.val_bpb) == ("nanochat", run.result["val_bpb"])
    store.close()
