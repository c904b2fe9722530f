"""What a workload prints of its own environment is masked wherever Patron shows, mirrors or keeps it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from patron_core.errors import Refused
from patron_core.executors.records import Records
from patron_core.rundir.rundir import RunDir
from patron_core.ui import inert
from patron_core.ui.script import to_json
from trainer.contract.masking import is_secret, known_secrets, mask, masked

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "aws/secret+4711",
    "HF_TOKEN": "hf_planted4711",
    "MLFLOW_TRACKING_PASSWORD": "tracking-4711",
    "PATRON_DATABASE_URL": "postgresql://ada:p%40ss-word@db/lab?sslmode=require",
}
HIDDEN = ("aws/secret+4711", "hf_planted4711", "tracking-4711", "p@ss-word", "p%40ss-word")
KEY = "r1-train-1"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> str:
    """What a workload says that prints all it knows."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    return " and ".join(HIDDEN)


def holds_none(text: Any) -> bool:
    return not any(secret in str(text) for secret in HIDDEN)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GOOGLE_APPLICATION_CREDENTIALS", "/home/ada/key.json"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "token-of-mine"),
        ("TOKENIZERS_PARALLELISM", "false-and-long"),
        ("HF_TOKEN", "short"),
        ("PATH", "/usr/bin:/usr/sbin"),
        ("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000/api"),
    ],
)
def test_what_is_no_secret_is_left_as_it_is(name: str, value: str) -> None:
    assert known_secrets(((name, value),)) == set()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_TOKEN", "short"),
        ("PGPASSWORD", "postgres-4711"),
        ("MYSQL_PWD", "short"),
        ("AWS_SECRET_ACCESS_KEY", "/begins+as/a/path"),
        ("DATABASE_URL", "postgresql://ada:pw@db/lab"),
    ],
)
def test_what_code_of_others_is_not_given_may_be_short_or_look_like_a_path(name: str, value: str) -> None:
    assert is_secret(name, value)


def test_what_is_no_secret_is_given_to_code_of_others(tmp_path: Path) -> None:
    given = {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path), "TOKENIZERS_PARALLELISM": "false", "PWD": "/"}
    assert not [name for name, value in given.items() if is_secret(name, value)]


def test_what_is_known_here_is_masked_in_texts_and_in_values(said: str) -> None:
    assert mask(said) == " and ".join(["***"] * len(HIDDEN))
    assert masked({"HF_TOKEN": [said, 7, None]}) == {"HF_TOKEN": [mask(said), 7, None]}
    assert holds_none(inert.terminal(said))
    assert holds_none(to_json({"a": {"b": [said]}}))
    assert holds_none(Refused(said, next="x").to_dict())


def test_a_run_directory_is_read_without_them(said: str, tmp_path: Path) -> None:
    for name in ("events", "logs"):
        (tmp_path / name).mkdir()
    head = {"seq": 1, "time": 1.0, "attempt": KEY, "step": 1}
    lines = [head | {"kind": "warning", "message": said}, head | {"kind": "sample", "seq": 2, "texts": [said]}]
    (tmp_path / "events" / f"{KEY}-000001.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "logs" / f"{KEY}.log").write_text(said)
    (tmp_path / "result.json").write_text(json.dumps({"message": said}))
    (tmp_path / "environment.json").write_text(json.dumps({"packages": {"x": said}}))
    Records(str(tmp_path), KEY).write_start(
        1, {"elapsed_s": 1.0, "at": 1.0, "tail": [said], "evidence": {"error": said}}
    )
    directory = RunDir(tmp_path)
    read = [directory.read_events(), directory.result(), directory.environment(), directory.log_tail(KEY, 9)]
    read.append(Records(str(tmp_path), KEY).starts())
    assert all(holds_none(each) for each in read)
    assert all("***" in str(each) for each in read)


def test_a_guard_writes_down_what_was_printed_without_them(said: str, tmp_path: Path) -> None:
    code = "import os; print(os.environ['HF_TOKEN'], os.environ['AWS_SECRET_ACCESS_KEY'], flush=True)"
    watching = [sys.executable, "-m", "patron_core.executors.guard", "--key", KEY, "--run-dir", str(tmp_path)]
    subprocess.run([*watching, "--", sys.executable, "-c", code], check=True, capture_output=True)
    (record,) = (tmp_path / "machines").iterdir()
    assert json.loads(record.read_text())["tail"] == ["*** ***"]
    assert record.parent.stat().st_mode & 0o077 == 0
