"""`patron doctor` without a server, with one that hangs, and which credentials reach a rented machine."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from patron_core import verbs
from patron_core.errors import InvalidInput, Refused
from patron_core.executors import skypilot_client
from patron_core.executors.base import Job
from patron_core.executors.sky_task import make_task
from patron_core.executors.skypilot_client import Client
from patron_core.machines import catalog, credentials


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without credentials; its .aws folder."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "PROFILE", "ENDPOINT_URL", "ENDPOINT_URL_S3", "REGION"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    for name in (
        "AWS_DEFAULT_REGION",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_CONFIG_FILE",
        "GOOGLE_APPLICATION_CREDENTIALS",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".aws").mkdir()
    return tmp_path / ".aws"


KEYS = "[default]\naws_access_key_id = a\naws_secret_access_key = b\n[r2]\naws_access_key_id = c\n"


@pytest.mark.parametrize(
    ("files", "environ", "said"),
    [
        ({"credentials": KEYS}, {}, "keys of profile default"),
        ({"credentials": KEYS}, {"AWS_PROFILE": "r2"}, "keys of profile r2"),
        ({"credentials": KEYS}, {"AWS_ENDPOINT_URL": "https://x.r2.example"}, "at https://x.r2.example"),
    ],
)
def test_credentials_that_travel(
    aws: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], environ: dict[str, str], said: str
) -> None:
    for name, text in files.items():
        (aws / name).write_text(text)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert said in credentials.check_travel("s3://b/runs")
    job = Job(key="r1-train-1", command=("true",), run_dir="s3://b/runs/r1", deadline_s=9, grace_s=9)
    monkeypatch.setenv("PATRON_SKY_PYTHON", "/opt/python")
    envs = make_task(job)["envs"]
    assert {name: envs.get(name) for name in environ} == environ
    assert "AWS_SECRET_ACCESS_KEY" not in envs


@pytest.mark.parametrize(
    ("files", "environ", "said"),
    [
        ({}, {"AWS_ACCESS_KEY_ID": "a"}, "in this environment alone"),
        ({"credentials": KEYS}, {"AWS_PROFILE": "work"}, "none for profile work"),
        ({"config": "[profile work]\nsso_session = x\n"}, {"AWS_PROFILE": "work"}, "SSO login"),
        ({"credentials": KEYS}, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9000"}, "only this machine can reach"),
        ({"credentials": "this is no file of keys"}, {}, "nowhere"),
    ],
)
def test_credentials_that_stay_behind_are_refused_with_the_command(
    aws: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], environ: dict[str, str], said: str
) -> None:
    for name, text in files.items():
        (aws / name).write_text(text)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Refused, match=said) as refused:
        credentials.check_travel("s3://b/runs")
    assert refused.value.next.startswith(("aws configure", "export AWS_ENDPOINT_URL"))


def test_gcloud_needs_a_login_and_a_folder_needs_nothing(aws: Path) -> None:
    with pytest.raises(Refused, match="no gcloud login"):
        credentials.check_travel("gs://b/runs")
    login = aws.parent / ".config" / "gcloud" / "application_default_credentials.json"
    login.parent.mkdir(parents=True)
    login.write_text("{}")
    assert str(login) in credentials.check_travel("gs://b/runs")
    assert credentials.check_travel("/shared/runs") == "none are needed for a folder"


@pytest.fixture
def alone(home: Path, aws: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    client = Client()
    monkeypatch.setattr(skypilot_client, "shared", client)
    monkeypatch.setattr(catalog, "_enabled", [])
    yield monkeypatch
    client.close()


def test_without_a_server_the_rest_is_unknown_and_the_first_failure_is_what_comes_next(
    alone: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    alone.setenv("SKYPILOT_API_SERVER_ENDPOINT", f"http://127.0.0.1:{port}")
    seen: list[str] = []
    found = verbs.doctor(on_check=lambda check: seen.append(check.name))
    status = {check.name: check.status for check in found.checks}
    assert status == {
        "versions": "pass", "server": "fail", "clouds": "unknown", "accelerators": "unknown", "quota": "unknown",
        "controller": "unknown", "bucket": "fail", "credentials": "pass", "machine": "unknown",
    }  # fmt: skip
    assert seen == list(status)
    answer = found.to_dict()
    assert (answer["ok"], answer["next"]) == (False, "sky api start")
    with pytest.raises(InvalidInput, match="V100"):
        verbs.doctor(devices=["V100"])


def test_nothing_hangs_on_a_server_that_never_answers(alone: pytest.MonkeyPatch) -> None:
    alone.setattr(skypilot_client, "START_S", 1.0)
    alone.setattr(sys.modules["patron_core.verbs.doctor"], "_ANSWER_S", 60.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        alone.setenv("SKYPILOT_API_SERVER_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begin = time.monotonic()
        found = verbs.doctor(limit_s=2.0)
        assert time.monotonic() - begin < 30.0
    server = found.checks[1]
    assert (server.name, server.status, server.found) == ("server", "unknown", "no answer within 2 s")
    assert server.next
