"""Foreign code under the contract of a run directory: started, stopped, killed, resumed; what it says made events."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import foreign
import psutil
import pytest
from record import all_events, curve

from patron_core.rundir.rundir import RunDir, lineage
from trainer.contract.exits import EXIT_BAD_SPEC, EXIT_DONE, EXIT_ERROR, EXIT_OUT_OF_MEMORY, EXIT_RESUME, BadSpec
from trainer.contract.foreign import SOURCES, ForeignSpec
from trainer.foreign import surroundings, unpack
from trainer.foreign.logs import Log

# resumes from its own state, and tells by its steps that it did
TRAIN = f"""{foreign.LOG}
state = Path("state")
first = int(state.read_text()) + 1 if state.exists() else 1
for step in range(first, int(sys.argv[1]) + 1):
    log("loss", 1 / step, step)
    log("seen", step)
    state.write_text(str(step))
    time.sleep(600 if (first, step, sys.argv[1]) == (1, 30, "40") else float(sys.argv[2]))  # there to be killed
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATRON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATRON_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("PATRON_STOP_WITHIN_S", "5")
    return tmp_path / "cache"


def archive(files: Mapping[str, str], **links: str) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
        for name, target in links.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return content.getvalue()


def prepared(run_dir: Path, content: bytes, command: str, **changed: Any) -> ForeignSpec:
    values = {
        "name": "toy",
        "sources": hashlib.sha256(content).hexdigest(),
        "command": command,
        "parameters": {"n": 40, "step_s": 0.05},
        "steps_parameter": "n",
    }
    spec = ForeignSpec.from_dict(values | changed)
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "spec.json").write_text(json.dumps(spec.to_dict()))
    (run_dir / SOURCES).write_bytes(content)
    return spec


def start(
    run_dir: Path | str, attempt: str = "manual-1", *words: str, spec: Path | None = None
) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "trainer.foreign.run", str(spec or Path(run_dir, "spec.json")), str(run_dir)]
    return subprocess.Popen(
        [*command, "--attempt", attempt, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(run_dir: Path | str, attempt: str = "manual-1", *words: str) -> tuple[int, dict[str, Any], str]:
    process = start(run_dir, attempt, *words)
    said, _ = process.communicate(timeout=60)
    found = Path(run_dir, "result.json")
    return process.returncode, json.loads(found.read_text()) if found.exists() else {}, said


def losses(run_dir: Path | str) -> list[tuple[int, float]]:
    return curve(lineage(all_events(RunDir(run_dir))), "loss")


def wait_for(what: Any, timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_kill_at_any_moment_loses_no_line_and_brings_none_twice(tmp_path: Path) -> None:
    """Also of what the command logged after the last event, and of both processes' last words."""
    run_dir = tmp_path / "run"
    prepared(run_dir, archive({"train.py": TRAIN}), "echo first && python train.py {n} {step_s}")
    process = start(run_dir)
    state = run_dir / "work" / "state"
    wait_for(lambda: state.exists() and state.read_text() and int(state.read_text()) >= 12)
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    process.kill()
    process.communicate()
    code, result, _ = finish(run_dir, "manual-2")
    assert (code, result["reason"], result["step"]) == (EXIT_DONE, "completed", 40)
    assert losses(run_dir) == [(step, 1 / step) for step in range(1, 41)]
    assert finish(run_dir, "manual-3")[0] == EXIT_DONE  # a finished run is not run again
    assert [event.attempt for event in all_events(RunDir(run_dir)) if event.kind == "end"] == ["manual-2"]


def test_asked_to_stop_it_passes_that_on_and_says_what_is_left(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    prepared(
        run_dir, archive({"train.py": TRAIN}), "python train.py {n} {step_s}", parameters={"n": 900, "step_s": 0.05}
    )
    process = start(run_dir)
    wait_for(lambda: (run_dir / "work" / "state").exists())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    result = json.loads((run_dir / "result.json").read_text())
    assert (process.returncode, result["reason"]) == (EXIT_RESUME, "notice")
    assert "SIGTERM" in result["message"]
    # one that does not listen is killed in time
    deaf = tmp_path / "deaf"
    prepared(deaf, archive({"x": ""}), "trap '' TERM; touch on; while true; do sleep 0.1; done; echo {n}")
    process = start(deaf)
    wait_for(lambda: (deaf / "work" / "on").exists())
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == EXIT_RESUME
    assert time.monotonic() - began < 5


def test_how_it_ends_is_told_from_its_code_and_its_words(tmp_path: Path) -> None:
    ends = {
        "exit 3; echo {n}": (EXIT_ERROR, "user_error"),
        "echo torch.OutOfMemoryError: CUDA out of memory; false {n}": (EXIT_OUT_OF_MEMORY, "cuda_oom"),
        "kill -9 $$; echo {n}": (137, "lost"),
    }
    for number, (command, (code, reason)) in enumerate(ends.items()):
        run_dir = tmp_path / f"run-{number}"
        prepared(run_dir, archive({"x": ""}), command)
        got, result, _ = finish(run_dir)
        assert (got, result["reason"]) == (code, reason), command
    assert "CUDA out of memory" in json.loads((tmp_path / "run-1" / "result.json").read_text())["message"]


def test_a_burst_is_measured_and_finishes_nothing(tmp_path: Path) -> None:
    run_dir = tmp_path / "dryrun-1"
    prepared(
        run_dir, archive({"train.py": TRAIN}), "python train.py {n} {step_s}", parameters={"n": 900, "step_s": 0.1}
    )
    code, result, _ = finish(run_dir, "manual-1", "--burst", "6")
    burst = result["burst"]
    assert (code, burst["steps"], burst["unit"], burst["paced"]) == (EXIT_DONE, 6, "n", True)
    assert 0.1 <= burst["step_s"] < 0.5
    assert [step for step, _ in losses(run_dir)] == list(range(1, 7))


def test_requirements_make_an_environment_of_their_own_and_drift_is_refused(tmp_path: Path, cache: Path) -> None:
    run_dir = tmp_path / "run"
    where = "import sys; print('here', sys.prefix)"
    prepared(
        run_dir, archive({"train.py": where}), "python train.py {n}", environment={"requirements": [], "python": None}
    )
    code, _, said = finish(run_dir, "manual-1", "--burst", "1")
    assert code == EXIT_DONE, said
    assert f"here {cache / 'environments'}" in said
    proven = json.loads((run_dir / "environment.json").read_text())
    assert (proven["how"], "lock" in proven) == ("requirements", True)
    code, result, _ = finish(run_dir, "manual-2", "--expect-environment", "0" * 16)
    assert (code, result["reason"]) == (EXIT_BAD_SPEC, "environment_drift")


def test_an_image_runs_in_docker_with_its_digest_on_record_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A docker of ours, since there is none here: it writes down what it is asked, and runs the command itself."""
    (tmp_path / "bin").mkdir()
    docker = tmp_path / "bin" / "docker"
    docker.write_text(
        f'#!/bin/bash\necho "$@" >> {tmp_path}/asked\nif [ "$1" = image ]; then echo toy@sha256:abc; fi\n'
        'if [ "$1" = run ]; then while [ "$1" != bash ]; do shift; done; shift 2; cd WORK; exec bash "$@"; fi\n'
        "exit 0\n".replace("WORK", str(tmp_path / "run" / "work"))
    )
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("HF_TOKEN", "planted-secret-4711")
    monkeypatch.setenv("PATRON_SOMETHING", "ours")
    run_dir = tmp_path / "run"
    prepared(run_dir, archive({"x": ""}), "env && echo {n}", environment={"image": "toy:1"})
    code, _, said = finish(run_dir)
    assert code == EXIT_DONE, said
    asked = (tmp_path / "asked").read_text()
    assert "pull --quiet toy:1" in asked
    (line,) = [line for line in asked.splitlines() if line.startswith("run ")]
    assert f"--volume {run_dir}:{run_dir} --workdir {run_dir / 'work'}" in line
    assert "--env MLFLOW_RUN_ID=" in line
    # its variables are for the image, and not for the docker that is started here
    own = {"PATH": "/work/evil", "HOME": "/work", "LD_PRELOAD": "/work/evil.so"}
    image = surroundings.Surroundings(how="image", image="toy:1")
    assert not own.items() & image.environ(own).items()
    assert "PATH=/work/evil" in image.argv("x", work=run_dir / "work", variables=own, name="n")
    assert "toy:1 -c env && echo 40" in line
    assert "planted-secret-4711" not in said + asked
    assert "PATRON_SOMETHING" not in said
    assert json.loads((run_dir / "environment.json").read_text())["image"] == "toy@sha256:abc"
    # in the image already, as on a machine that was made of it: its own python, and not ours
    monkeypatch.setenv("PATRON_IMAGE", "toy:1")
    found = surroundings.find(ForeignSpec.from_json((run_dir / "spec.json").read_text()).environment)
    assert found.how == "inside"
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin")
    assert found.environ({})["PATH"] == "/usr/bin"


def test_what_it_writes_stays_data(tmp_path: Path) -> None:
    """Links, pipes, escapes, endless numbers: nothing is followed, nothing hangs, nothing reaches a terminal."""
    hostile = f"""{foreign.LOG}
(run / "metrics").mkdir(parents=True, exist_ok=True)
(run / "metrics" / "link").symlink_to("/etc/passwd")
os.mkfifo(run / "metrics" / "pipe")
(run / "params" / "p").write_text("x" * 60000)
(run / "artifacts" / "up").symlink_to("/etc")
log("good", 0.5, 1)
log("nan", "nan", 1)
log("huge", "1e999", 1)
log("words", "rm -rf", 1)
print("\\x1b]0;title\\x07\\x1b[2Jgone\\r" + "bar" * 9000)
"""
    run_dir = tmp_path / "run"
    prepared(run_dir, archive({"train.py": hostile}), "python train.py {n}")
    code, _, said = finish(run_dir)
    assert code == EXIT_DONE, said
    assert "\x1b" not in said
    assert "\x07" not in said
    events = all_events(RunDir(run_dir))
    assert {key for event in events if event.kind == "metrics" for key in event.data["metrics"]} == {"good"}
    (logged,) = [event.data for event in events if event.kind == "logged"]
    assert len(logged["params"]["p"]) == 500
    assert logged["artifacts"] == {}


HOSTILE = {
    "above": archive({"../evil": "x"}),
    "link": archive({}, link="/etc"),
    "no archive": b"none",
    "nothing": b"",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)  # an archive's bytes tell the time: no name for it
def test_an_archive_writes_nothing_outside_its_folder(tmp_path: Path, content: bytes) -> None:
    spec = prepared(tmp_path / "run", content, "echo {n}")
    with pytest.raises(BadSpec):
        unpack.unpack(unpack.checked(content, spec.sources), tmp_path / "run" / "work", spec)
    assert not (tmp_path / "run" / "evil").exists()
    with pytest.raises(BadSpec, match="planned were"):
        unpack.checked(content, "0" * 64)


def test_the_log_of_nanochat_is_read(tmp_path: Path) -> None:
    log = Log("nanochat")
    for line in (
        "step 00010/01500 (0.67%) | loss: 5.432100 | lrm: 1.00 | dt: 1820.50ms | tok/sec: 287,990 | bf16_mfu: 53.10 | "
        "epoch: 1 pq: 0 rg: 3 | total time: 0.10m | eta: 45.2m",
        "Step 00010 | Validation bpb: 1.234500",
        "step 00011/01500 (0.73%) | loss: nan | lrm: 1.00 | dt: 1.00ms | tok/sec: 1 | bf16_mfu: 0.00 | epoch: 1",
        "Peak memory usage: 11400.00MiB",
        "Step 99999999999 | Validation bpb: 1.0",
    ):
        log.hear(line)
    first = {point.key: (point.value, point.step) for point in log.points if point.step == 11}
    assert first["train/loss"] == (5.4321, 11)
    assert first["train/step_s"] == (1.8205, 11)
    assert first["train/tokens_per_s"] == (287990.0, 11)
    assert first["train/mfu"] == (0.531, 11)
    assert [(step, bpb) for step, bpb, _ in log.evals] == [(10, 1.2345)]
    assert log.figures["peak_memory_bytes"] == 11400 * 2**20
    assert not [point for point in log.points if point.key == "train/loss" and point.step == 12]


def test_a_run_in_a_bucket_goes_on_from_the_codes_own_checkpoint_on_another_machine(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is declared as its checkpoints goes up, comes down, and makes the command resume; no logged step is lost."""
    train = f"""{foreign.LOG}
first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
for step in range(first + 1, int(sys.argv[1]) + 1):
    log("loss", 1 / step, step)
    if step == 25 and first == 0:
        time.sleep(600)  # there to be killed
    if step % 5 == 0:
        Path("saved").mkdir(exist_ok=True)
        Path("saved", f"model_{{step:06d}}.pt").write_text(str(step))
    time.sleep(0.05)
"""
    from trainer.contract.remote import Remote

    content, here, url = archive({"train.py": train}), tmp_path / "here", f"{bucket}/r1"
    saved = {"folder": "saved", "pattern": r"model_(\d+)\.pt", "resume": "{step}"}
    prepared(here, content, "python train.py {n} {resume}", parameters={"n": 45}, checkpoints=saved)
    Remote(url).put(SOURCES, content)
    process = start(url, "manual-1", spec=here / "spec.json")
    wait_for(lambda: (newest := RunDir(url).newest_checkpoint()) is not None and newest.step >= 10, 40)
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    process.kill()
    process.communicate()
    durable = RunDir(url).newest_checkpoint()
    assert durable is not None
    monkeypatch.setenv("PATRON_SCRATCH", str(tmp_path / "another"))
    process = start(url, "manual-2", spec=here / "spec.json")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == EXIT_DONE, said
    starts = [event.data["resumed_step"] for event in all_events(RunDir(url)) if event.kind == "start"]
    assert starts[0] is None
    assert starts[1] >= 10
    assert losses(url) == [(step, 1 / step) for step in range(1, 46)]
