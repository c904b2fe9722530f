"""Secrets in URLs never reach the database, a message or a log."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from patron_core import settings, verbs
from patron_core.errors import InvalidInput, PatronError, Refused
from patron_core.lifecycle.own_log import Masked
from patron_core.store import Store, runs
from trainer.contract.remote import Remote, RemoteError
from trainer.contract.urls import mask, secret_of

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"postgresql://ada:{SECRET}@db/lab", "postgresql://ada:***@db/lab"),
        (f"postgresql+psycopg://ada@db/lab?password={SECRET}&sslmode=require",
         "postgresql+psycopg://ada@db/lab?password=***&sslmode=require"),
        (f"postgresql://ada:a/b@{SECRET}@db/lab", "postgresql://ada:***@db/lab"),
        (f"https://{SECRET}@mlflow.example.org/api", "https://***@mlflow.example.org/api"),
        (f"http://ada:{SECRET}@mlflow/x", "http://***:***@mlflow/x"),
        (f"s3://KEY:{SECRET}@bucket/runs", "s3://***:***@bucket/runs"),
        (f"s3://bucket/x?X-Amz-Signature={SECRET}&a=1", "s3://bucket/x?X-Amz-Signature=***&a=1"),
        (f"gs://bucket?access_token={SECRET}", "gs://bucket?access_token=***"),
        (f"at 'https://x:{SECRET}@h/' and https://y:{SECRET}@i", "at 'https://***:***@h/' and https://***:***@i"),
        ("s3://bucket/runs", "s3://bucket/runs"),
        ("postgresql://ada@db/lab", "postgresql://ada@db/lab"),
        ("https://example.org/@ada?page=2", "https://example.org/@ada?page=2"),
        ("no address, a@b, x=y", "no address, a@b, x=y"),
        ("sqlite:////home/ada/.patron/patron.db", "sqlite:////home/ada/.patron/patron.db"),
    ],
)  # fmt: skip
def test_what_is_secret_in_a_url_is_masked_and_the_rest_is_read(url: str, shown: str) -> None:
    assert mask(url) == shown
    assert (secret_of(url) is None) == (url == shown)


@pytest.mark.parametrize("place", [f"s3://KEY:{SECRET}@bucket/runs", f"gs://bucket/runs?access_token={SECRET}"])
def test_a_bucket_with_its_keys_is_refused_before_it_is_written_down(
    home: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("PATRON_RUNS", place)
    store = Store.open()
    with pytest.raises(InvalidInput, match="holds a key") as refused:
        verbs.plan(store, spec={"depth": 1, "num_steps": 10}, actor="ada")
    assert SECRET not in str(refused.value.to_dict())
    assert runs.list_runs(store) == []
    store.close()
    with pytest.raises(RemoteError, match="holds a key") as told:
        Remote(place)
    assert SECRET not in str(told.value)
    assert not any(SECRET in path.read_bytes().decode("latin-1") for path in home.rglob("*") if path.is_file())


def test_every_error_and_every_log_line_is_masked() -> None:
    url = f"postgresql://ada:{SECRET}@db"
    for error in (Refused(f"cannot open {url}", next=f"psql {url}"), InvalidInput([url, "x"], next="y")):
        assert SECRET not in f"{error} {error.to_dict()} {error.next}"
        assert isinstance(error, PatronError)
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "cannot open %s", (url,), None)
    assert SECRET not in Masked().format(record)


@pytest.mark.parametrize(
    "url", [f"postgresql://ada:{SECRET}@127.0.0.1:1/lab", f"postgresql://ada@127.0.0.1:1/lab?password={SECRET}"]
)
def test_a_database_that_does_not_answer_says_nothing_of_its_password(
    home: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("PATRON_DATABASE_URL", url)
    monkeypatch.setenv("PATRON_DATABASE_WAIT_S", "1")
    program = Path(settings.__file__).parents[1] / "notebooks" / "0_lab.py"
    done = subprocess.run([sys.executable, str(program), "--json"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "127.0.0.1" in done.stdout
    assert SECRET not in done.stdout + done.stderr
