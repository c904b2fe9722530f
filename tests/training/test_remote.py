"""The door to buckets, against a real S3 server."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any
from wsgiref.simple_server import make_server

import pytest
from s3 import S3Server

from trainer.contract.remote import Remote, RemoteError, is_url, join, read_anywhere


def test_what_is_put_can_be_read_listed_and_deleted(bucket: str) -> None:
    remote = Remote(f"{bucket}/a/run")
    remote.put("x.json", b"{}")
    remote.put("folder/y", b"123")
    assert remote.get("x.json") == b"{}"
    assert remote.get("none") is None
    assert remote.sizes() == {"folder/y": 3, "x.json": 2}
    assert remote.sizes("folder") == {"folder/y": 3}
    assert remote.get_end("folder/y", 2) == b"23"
    assert remote.get_end("none", 2) == b""
    assert read_anywhere(f"{bucket}/a/run/x.json") == b"{}"
    remote.delete(["x.json", "none"])
    assert remote.sizes() == {"folder/y": 3}
    assert Remote(f"{bucket}/another").is_empty()


def test_a_large_file_goes_up_in_parts_and_comes_down_as_it_was(
    bucket: str, s3_server: S3Server, tmp_path: Path
) -> None:
    large = tmp_path / "large"
    large.write_bytes(os.urandom(12 * 2**20))
    remote = Remote(f"{bucket}/run")
    remote.put("large", large)
    assert [method for method, path in s3_server.requests if path.endswith("/large")].count("PUT") == 3  # 5 + 5 + 2
    assert b"".join(remote.stream("large")) == large.read_bytes()


def test_of_two_who_create_one_wins(bucket: str) -> None:
    remote = Remote(f"{bucket}/run")
    assert remote.create("x", b"first")
    assert not remote.create("x", b"second")
    assert remote.get("x") == b"first"


def test_a_listing_goes_on_after_a_name(bucket: str) -> None:
    remote = Remote(f"{bucket}/run")
    for number in range(4):
        remote.put(f"events/a-{number}", b"")
    assert [name for page in remote.pages("events", "events/a-1") for name, _ in page] == ["events/a-2", "events/a-3"]


def test_a_bucket_that_does_not_exist_is_told_from_an_object_that_does_not(bucket: str) -> None:
    remote = Remote(f"{bucket}-nowhere/run")
    for ask in (lambda: remote.put("x", b""), lambda: remote.get("x"), lambda: remote.sizes()):
        with pytest.raises(RemoteError, match="make the bucket: aws s3 mb") as caught:
            ask()
        assert caught.value.wrong


def test_a_server_that_is_away_is_not_wrong_and_asked_for_a_bounded_time(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(RemoteError, match="check the network") as caught:
        Remote(f"{bucket}/run", timeout_s=1, retry_s=0.5).get("x")
    assert not caught.value.wrong


def test_a_bucket_in_another_region_is_said_as_that(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As S3 answers then: a redirect without an address."""

    def elsewhere(_environ: Any, start_response: Any) -> list[bytes]:
        start_response("301 Moved Permanently", [("x-amz-bucket-region", "eu-west-1")])
        return [b"<Error><Code>PermanentRedirect</Code></Error>"]

    server = make_server("127.0.0.1", 0, elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    try:
        with pytest.raises(RemoteError, match="set AWS_REGION") as caught:
            Remote(f"{bucket}/run", timeout_s=5, retry_s=0.5).get("x")
        assert caught.value.wrong
    finally:
        server.shutdown()
        server.server_close()


def test_a_failing_server_is_tried_again(bucket: str, s3_server: S3Server) -> None:
    remote = Remote(f"{bucket}/run")
    held = s3_server.hold(lambda method, path: method == "PUT" and not held.reached.is_set())
    held.release()
    remote.put("x", b"1")
    assert held.reached.is_set()
    assert remote.get("x") == b"1"


def test_no_credential_is_in_an_error(bucket: str, s3_server: S3Server) -> None:
    remote = Remote(f"{bucket}-nowhere/run")
    with pytest.raises(RemoteError) as caught:
        remote.put("x", b"")
    said = repr(caught.value) + str(caught.value) + repr(caught.value.__cause__)
    for secret in ("test-key-id", "test-secret-key"):
        assert secret not in said


def test_the_keys_of_a_profile_are_used_where_the_environment_has_none(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = tmp_path / "credentials"
    keys.write_text("[default]\nregion = x\n[team]\naws_access_key_id = a\naws_secret_access_key = b\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    monkeypatch.setenv("AWS_PROFILE", "team")
    Remote(f"{bucket}/run").put("x", b"1")


@pytest.mark.parametrize("url", ["ftp://host/run", "s3:///run", "az://bucket/run"])
def test_a_place_that_is_none_is_refused(url: str) -> None:
    pytest.importorskip("obstore", reason="needs the package obstore")
    with pytest.raises(RemoteError, match="is no place for a run"):
        Remote(url)


def test_places_are_joined_as_what_they_are() -> None:
    assert join("s3://bucket/run/", "dryrun-1") == "s3://bucket/run/dryrun-1"
    assert join("/runs/run", "dryrun-1") == "/runs/run/dryrun-1"
    assert is_url("gs://bucket")
    assert not is_url("/runs/s3:/x")
