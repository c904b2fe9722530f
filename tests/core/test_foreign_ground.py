"""A run directory is foreign ground: whatever is written there, looking at it raises nothing and charges no more than
has passed."""

from __future__ import annotations

import hashlib
import json
import resource
import signal
from pathlib import Path
from typing import Any

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patron_core import verbs
from patron_core.errors import PatronError
from patron_core.executors.records import Records
from patron_core.executors.restarting import lost_in_a_row
from patron_core.executors.sky_view import observe_job
from patron_core.lifecycle.decide import Situation
from patron_core.lifecycle.evidence import words
from patron_core.lifecycle.learned import last_word, run_result
from patron_core.lifecycle.verdict import verdict
from patron_core.rundir.places import place_of
from patron_core.rundir.record import Record
from patron_core.rundir.rundir import RunDir
from patron_core.states import EndReason, RunState, why
from patron_core.store import Store
from patron_core.verbs import watch
from trainer.checkpoint.folders import find_damage, score_of
from trainer.checkpoint.restore import restore
from trainer.contract import control, layout, shapes
from trainer.contract.events import seq_of
from trainer.contract.remote import Remote

KEY = "r1-train-1"
numbers = st.one_of(
    st.integers(), st.floats(), st.sampled_from([-1e9, 1e12, 2**63, 10**400, True, float("inf"), float("nan")])
)
leaves = st.one_of(
    st.none(), st.booleans(), numbers, st.text(max_size=8), st.sampled_from(["abc", "..", "/etc", "1e9"])
)
NAMES = """
elapsed_s at ended exit_code signal evidence tail checkpoint_step host job oom_kills memory rss_bytes error
available_bytes cgroup_bytes cgroup_limit_bytes reclaim_notice val_bpb val_loss step num_steps resumed_step
metrics message
reason attempt divergence num_bad num_values value quantity name prompts texts ends files bytes sha256 format train/loss
train/step_s kill_after_s deadline_s device_batch_size fitting_device_batch_size
"""
names = st.sampled_from(NAMES.split())
values = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.one_of(names, st.text(max_size=5)), inner)),
    max_leaves=12,
)
objects = st.dictionaries(names, values, max_size=12)
quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
DEEP = b"[" * 100_000 + b"]" * 100_000
BROKEN = [
    b"",
    b"null",
    b"[]",
    b"7",
    b'"x"',
    b"{",
    b"\xff\xfe",
    DEEP,
    b'{"elapsed_s": 1e999}',
    b'{"a":' + b"9" * 5000 + b"}",
]


def text(value: Any) -> bytes:
    return json.dumps(value).encode()


stated = st.one_of(st.just("state.json"), st.sampled_from(["..", "../x", "/etc/passwd", "a/b", ".x"]))
manifests = st.dictionaries(stated, values).map(lambda files: text({"format": 1, "files": files}))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for name in ("machines", "stops", "events", "checkpoints/step-000010", "logs"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


@given(st.lists(st.one_of(objects.map(text), st.sampled_from(BROKEN)), min_size=1, max_size=3), st.integers(0, 3))
@quick
def test_machines_records_are_observed_judged_and_told(run: Path, contents: list[bytes], number: int) -> None:
    for path in (run / "machines").iterdir():
        path.unlink()
    for n, content in enumerate(contents, start=1):
        (run / "machines" / f"{KEY}-{n}.json").write_bytes(content)
    starts = Records(str(run), KEY).starts()
    assert len(starts) == len(contents)  # a damaged one hides none after it
    lost_in_a_row(starts)
    for status in ("RUNNING", "FAILED", "SUCCEEDED", "CANCELLED"):
        seen = observe_job({"status": status}, starts)
        assert seen.uptime_s is None or 0 <= seen.uptime_s <= shapes.MAX_SECONDS * len(starts)
        json.dumps(seen.evidence, allow_nan=False)
        assert isinstance(words(seen.evidence, seen.exit_code), str)
        if seen.is_final:
            reason = verdict(Situation(state=RunState.RUNNING), seen)
            assert isinstance(why(reason, seen.evidence), str)


@given(st.one_of(objects.map(text), st.sampled_from(BROKEN)))
@quick
def test_a_last_word_a_wish_and_a_deadline_are_read(run: Path, content: bytes) -> None:
    (run / "result.json").write_bytes(content)
    (run / "stops" / f"{KEY}.json").write_bytes(content)
    directory = RunDir(run)
    result = directory.result()
    json.dumps(result, allow_nan=False)
    run_result(directory)
    said = last_word(directory, str((result or {}).get("attempt")))
    for reason in EndReason:
        assert isinstance(why(reason, {"last_word": said, "checkpoint_step": 3}), str)
    wish = Records(str(run), KEY).stop()
    assert wish is None or wish["kill_after_s"] is None or wish["kill_after_s"] >= 0
    assert control.deadline_of(content, KEY, 60.0) >= 60.0


@given(st.lists(st.one_of(st.builds(lambda head, rest: text({**head, **rest}), st.fixed_dictionaries({
    "seq": st.one_of(st.integers(0, 9), values), "time": st.one_of(st.just(1.0), values), "attempt": st.just(KEY),
    "kind": st.sampled_from(["metrics", "eval", "start", "sample", "warning", "phase", "checkpoint", "notice", "end"]),
}), objects), st.sampled_from([b for b in BROKEN if b and b"\n" not in b])), max_size=6))  # fmt: skip
@quick
def test_events_are_read_and_shown(run: Path, lines: list[bytes]) -> None:
    (run / "events" / f"{KEY}-000001.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    directory = RunDir(run)
    events, cursor = directory.read_events()
    json.dumps(cursor)
    record = Record(directory).look()

    assert record.frame().height == len(record.frame(record.keys()))
    latest, step, val_bpb = record.latest()
    assert all(isinstance(value, float) for value in latest.values())
    assert 0 <= step <= shapes.MAX_COUNT
    assert val_bpb is None or isinstance(val_bpb, float)
    assert all(isinstance(sample.text, str) for sample in watch._samples(record.marks("sample")))
    assert isinstance(record.phase(), str)
    assert all(seq_of(line) is None or seq_of(line) >= 0 for line in lines)  # type: ignore[operator]
    json.dumps([event.data for event in events], allow_nan=False)


@given(st.one_of(objects.map(text), st.sampled_from(BROKEN), manifests))
@quick
def test_a_manifest_that_says_nonsense_is_no_checkpoint(run: Path, content: bytes) -> None:
    folder = run / "checkpoints" / "step-000010"
    (folder / "manifest.json").write_bytes(content)
    (folder / "state.json").write_bytes(content)
    assert RunDir(run).newest_checkpoint() is None
    assert isinstance(find_damage(folder), str)
    score_of(folder)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(run: Path) -> None:
    good = run / "checkpoints" / "step-000010"
    (good / "state.json").write_text("{}")
    (good / "manifest.json").write_bytes(text({"format": 1, "files": {"state.json": {"bytes": 2, "sha256": "x"}}}))
    assert RunDir(run).look_for_checkpoint()[1] == []
    for step, files in ((20, {}), (30, {"../state.json": {"bytes": 2, "sha256": "x"}}), (40, {"state.json": {}})):
        folder = run / "checkpoints" / f"step-{step:06d}"
        folder.mkdir()
        (folder / "state.json").write_text("{}")
        (folder / "manifest.json").write_bytes(text({"format": 1, "files": files}))
    newest, damaged = RunDir(run).look_for_checkpoint()
    assert newest is not None
    assert (newest.step, damaged) == (10, [40, 30, 20])


def test_damaged_records_are_told_and_the_next_ones_count(run: Path) -> None:
    for n, record in enumerate(({"elapsed_s": -1e9, "at": 1.0}, {"elapsed_s": 7.0, "at": 2.0, "ended": True}), start=1):
        (run / "machines" / f"{KEY}-{n}.json").write_bytes(text(record))
    seen = observe_job({"status": "RUNNING"}, Records(str(run), KEY).starts())
    assert seen.uptime_s == 7.0
    assert "1 of its machines' records" in words(seen.evidence)


def test_a_huge_number_hides_no_event_after_it(run: Path) -> None:
    head = {"time": 1.0, "attempt": KEY, "kind": "metrics", "metrics": {}}
    for n, seq in enumerate((1, 2**50, 2), start=1):
        (run / "events" / f"{KEY}-{n:06d}.jsonl").write_bytes(text(head | {"seq": seq, "step": n}) + b"\n")
    assert [event.seq for event in RunDir(run).read_events()[0]] == [1, 2]


def test_an_unknown_signal_is_told_by_its_number() -> None:
    assert "signal 33" in words({"starts": [{"signal": 33}]})
    assert "SIGKILL" in words({"starts": [{"signal": int(signal.SIGKILL)}]})


@pytest.mark.parametrize("name", ["a/b-000001.jsonl", "../x-000001.jsonl", "x-٣.jsonl", f"x-{'9' * 400}.jsonl"])
def test_a_name_that_leads_elsewhere_is_no_segment(name: str) -> None:
    assert layout.segment_of(name) is None


def test_what_is_too_long_to_be_read_whole_counts_as_empty(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of many zeroes costs whoever made it nothing, and a reader all of its memory."""
    for name in ("result.json", f"machines/{KEY}-1.json", f"events/{KEY}-000001.jsonl", f"logs/{KEY}.log"):
        with (run / name).open("wb") as file:
            file.truncate(64 * 2**30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    directory = RunDir(run)
    assert (directory.result(), directory.read_events()[0]) == (None, [])
    assert [start["damaged"] for start in Records(str(run), KEY).starts()] == [True]
    assert len(directory.log_tail(KEY, 10)) < 2 * 2**20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
    remote = Remote(f"file://{run}")
    assert remote.get("result.json") == b""


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a//b", "."])
def test_a_name_that_leads_elsewhere_is_refused_by_us(run: Path, name: str) -> None:
    (run.parent / "x").write_text("outside")
    for ask in (place_of(run).read, Remote(f"file://{run}").get):
        with pytest.raises(OSError, match=r"leads elsewhere|no name of a file"):
            ask(name)
    with pytest.raises(OSError, match="no name of a file"):
        place_of(run).write(name, b"")
    assert (run.parent / "x").read_text() == "outside"


def test_a_key_that_no_path_can_name_is_told_by_its_name(bucket: str) -> None:
    """It ends every listing of its folder: what is to be removed is said."""
    name, client = bucket.removeprefix("s3://"), boto3.client("s3")
    for key in ("r/events//b-1.jsonl", "r/events/../c-1.jsonl", "r/events/\x01d-1.jsonl"):
        client.put_object(Bucket=name, Key=key, Body=b"{}")
        with pytest.raises(PatronError) as told:
            RunDir(f"{bucket}/r").read_events()
        assert repr(key) in told.value.next
        client.delete_object(Bucket=name, Key=key)
    assert RunDir(f"{bucket}/r").read_events()[0] == []


HOSTILE_FILES: list[Any] = [
    {},
    [],
    None,
    {"state.json": {}},
    {"state.json": {"bytes": "2", "sha256": "x"}},
    {"state.json": {"bytes": 1e999}},
    {"../../outside.txt": {"bytes": 2, "sha256": "x"}},
    {"/tmp/outside.txt": {"bytes": 2, "sha256": "x"}},
    {"state.json": {"bytes": 2}},
]


def test_restoring_takes_the_newest_whole_one_and_writes_nothing_elsewhere(tmp_path: Path) -> None:
    """Names from outside never leave the folder; a checkpoint that is none is passed over, with a word."""
    bucket = tmp_path / "bucket"
    digest = hashlib.sha256(b"{}").hexdigest()
    for step, files in enumerate([{"state.json": {"bytes": 2, "sha256": digest}}, *HOSTILE_FILES], start=1):
        folder = bucket / "checkpoints" / f"step-{step:06d}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_bytes(b"{}")
        (folder / "manifest.json").write_bytes(text({"format": 1, "files": files}))
    (bucket / "outside.txt").write_text("{}")
    (bucket / "events").mkdir()
    (bucket / "events" / f"{KEY}-000001.jsonl").write_bytes(DEEP + b'\n[]\n{"seq": "x"}\n{"seq": 3}\n')
    here = tmp_path / "here" / "run"
    here.mkdir(parents=True)
    found = restore(Remote(f"file://{bucket}"), here, KEY)
    assert found.step == 1
    assert found.segments[KEY].last_seq == 3
    assert find_damage(here / "checkpoints" / "step-000001") is None
    assert {path.name for path in here.rglob("*") if path.is_file()} == {"manifest.json", "state.json"}
    assert list(here.parent.iterdir()) == [here]
    passed_over = {int(message.split()[1]) for _, message in found.warnings if "not used" in message}
    assert passed_over == set(range(2, len(HOSTILE_FILES) + 2))


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
def test_a_view_of_a_run_whose_folder_is_nonsense_is_shown(home: Path, content: bytes) -> None:
    store = Store.open()
    planned = verbs.plan(store, spec={"depth": 1, "num_steps": 10}, actor="ada")
    folder = Path(planned.run_dir)
    for name in ("result.json", "environment.json", "control.json", f"events/{planned.id}-train-1-000001.jsonl",
                 "checkpoints/step-000010/manifest.json", f"machines/{planned.id}-train-1-1.json"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    seen = verbs.view(store, planned.id)
    assert seen.step == 0
    assert seen.checkpoint_step is None
    json.dumps(seen.to_dict(), allow_nan=False)
    store.close()
