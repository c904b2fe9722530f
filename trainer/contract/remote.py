"""Objects under a URL: s3://, gs://, and for tests file://. The one door to the network for run directories.

obstore does the work (the object_store of Rust: signing, multipart uploads, retries), one wheel for all clouds.
Credentials are found where its documentation says: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a web identity, the
role of the machine; GOOGLE_APPLICATION_CREDENTIALS, gcloud's login, the machine's service account. Besides, the keys of
AWS_PROFILE in ~/.aws/credentials are read, which obstore does not do. AWS_ENDPOINT_URL names another S3 server.

A name is relative to the URL. Every call ends within the time given, or raises RemoteError, whose text never holds a
credential: of a server's answer only its first line and its error code are kept.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from trainer.contract.shapes import MAX_FILE_BYTES, is_inside
from trainer.contract.urls import secret_of

if TYPE_CHECKING:
    from obstore.store import ObjectStore  # imported when the first URL is opened

SCHEMES = ("s3", "gs", "file")
CONNECT_TIMEOUT_S = 5.0
_ODD_KEY = re.compile(r'invalid path: (?:Error parsing )?Path "(.{1,300}?)"(?::| contained)', re.DOTALL)
PAGE_OBJECTS = 1000  # what S3 and GCS give at once


class RemoteError(OSError):
    """`advice` says what a person can do about it; `wrong` when trying again would not help."""

    def __init__(self, message: str, *, advice: str, wrong: bool):
        super().__init__(message)
        self.message, self.advice, self.wrong = message, advice, wrong

    def __str__(self) -> str:
        return f"{self.message}; {self.advice}"


def is_url(place: str | os.PathLike[str]) -> bool:
    return "://" in str(place)


def join(place: str, *names: str) -> str:
    """A name inside a place, which is a folder or a URL."""
    return "/".join([place.rstrip("/"), *names]) if is_url(place) else str(Path(place, *names))


def read_anywhere(place: str | os.PathLike[str]) -> bytes:
    """The content of a file or of an object. Raises OSError."""
    if not is_url(place):
        return Path(place).read_bytes()
    folder, _, name = str(place).rpartition("/")
    content = Remote(folder).get(name)
    if content is None:
        raise FileNotFoundError(f"{place} does not exist")
    return content


class Remote:
    """The objects under `url`. `timeout_s` bounds one request, `retry_s` all tries of it together."""

    def __init__(self, url: str, *, timeout_s: float = 30.0, retry_s: float = 20.0):
        self.url = url.rstrip("/")
        self._store = _open(self.url, timeout_s=timeout_s, retry_s=retry_s)

    def put(self, name: str, content: bytes | Path) -> None:
        """All of it or nothing; a large file goes up in parts, several at once."""
        try:
            with self._asking(name, "write"):
                _obstore().put(self._store, name, content)
        except FileNotFoundError as error:  # of an object to be written: there is no bucket
            raise _no_bucket(self.url, name) from error

    def create(self, name: str, content: bytes) -> bool:
        """Put unless there is such an object; False then. One of several writers wins."""
        try:
            with self._asking(name, "write"):
                _obstore().put(self._store, name, content, mode="create")
        except FileExistsError:
            return False
        return True

    def get(self, name: str, max_bytes: int = MAX_FILE_BYTES) -> bytes | None:
        """None when there is no such object. One that is longer counts as empty."""
        try:
            with self._asking(name, "read"):
                found = _obstore().get(self._store, name)
                return bytes(found.bytes()) if int(found.meta["size"]) <= max_bytes else b""
        except FileNotFoundError:
            return None

    def get_end(self, name: str, max_bytes: int) -> bytes:
        """The last bytes; none when there is no such object."""
        try:
            with self._asking(name, "read"):
                size = int(_obstore().head(self._store, name)["size"])
                start = max(0, size - max_bytes)
                return bytes(_obstore().get_range(self._store, name, start=start, end=size)) if size else b""
        except FileNotFoundError:
            return b""

    def stream(self, name: str) -> Iterator[bytes]:
        """Raises FileNotFoundError when there is no such object."""
        with self._asking(name, "read"):
            for chunk in _obstore().get(self._store, name).stream(min_chunk_size=4 * 2**20):
                yield bytes(chunk)

    def pages(self, folder: str, after: str | None = None) -> Iterator[list[tuple[str, int]]]:
        """(name, size) of the objects in `folder` and below, in order of the names, from the one after `after`."""
        with self._asking(folder, "list"):
            for page in _obstore().list(self._store, prefix=folder, offset=after, chunk_size=PAGE_OBJECTS):
                yield [(str(meta["path"]), int(meta["size"])) for meta in page]

    def sizes(self, folder: str = "") -> dict[str, int]:
        return {name: size for page in self.pages(folder) for name, size in page}

    def is_empty(self) -> bool:
        return next(iter(self.pages("")), []) == []

    def delete(self, names: Sequence[str]) -> None:
        """Those that are not there are no error."""
        for name in names:
            try:
                with self._asking(name, "delete"):
                    _obstore().delete(self._store, name)
            except FileNotFoundError:
                continue

    def _asking(self, name: str, verb: str) -> _Asking:
        return _Asking(self.url, name, verb)


def _no_bucket(url: str, name: str) -> RemoteError:
    parts = urlsplit(url)
    advice = f"check the name, or make the bucket: {_make_bucket(parts.scheme, parts.netloc)}"
    return RemoteError(f"cannot write {name} in {url}: there is no such bucket", advice=advice, wrong=True)


class _Asking:
    """Turns what obstore raises into RemoteError; FileNotFoundError and FileExistsError of one object pass."""

    def __init__(self, url: str, name: str, verb: str):
        self._url, self._name, self._verb = url, name, verb

    def __enter__(self) -> None:
        if self._name and not is_inside(self._name):
            what = f"cannot {self._verb} {self._name!r} in {self._url}: a name that leads elsewhere"
            raise RemoteError(what, advice="nothing of Patron's is named so", wrong=True)

    def __exit__(self, kind: object, error: BaseException | None, _trace: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, RemoteError):
            return
        code = _error_code(error)
        of_one_object = isinstance(error, FileNotFoundError | FileExistsError) or _is(error, "AlreadyExistsError")
        if of_one_object and code != "NoSuchBucket":
            if isinstance(error, FileNotFoundError | FileExistsError):
                return
            raise FileExistsError(self._name) from None
        if not (isinstance(error, OSError) or type(error).__module__.startswith("obstore")):
            return
        advice, wrong = _advice(error, code, self._url)
        what = f"cannot {self._verb} {self._name or 'objects'} in {self._url}: {code or _first_line(error)}"
        raise RemoteError(what, advice=advice, wrong=wrong) from None


def _advice(error: Exception, code: str, url: str) -> tuple[str, bool]:
    scheme, bucket = urlsplit(url).scheme, urlsplit(url).netloc
    credentials = {
        "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, run `aws configure`, or give the machine a role",
        "gs": "run `gcloud auth application-default login`, set GOOGLE_APPLICATION_CREDENTIALS, or give the machine a "
        "service account",
    }.get(scheme, "check the permissions of that folder")
    if code == "NoSuchBucket":
        return f"check the name, or make the bucket: {_make_bucket(scheme, bucket)}", True
    if odd := _ODD_KEY.search(str(error)):
        # nothing of that page is given, so that a key which no path can be made of ends the listing
        return f"somebody put an object there that no path can name, remove it: {odd[1]!r}", True
    denied = _is(error, "PermissionDeniedError") or _is(error, "UnauthenticatedError")
    if denied or code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "ExpiredToken"):
        return f"that needs leave to read, write, list and delete in {bucket}: {credentials}", True
    text = str(error)
    if any(sign in text for sign in ("169.254.169.254", "169.254.170.2", "metadata.google.internal", "token request")):
        return f"no credentials were found: {credentials}", True
    # S3 redirects without saying where to; obstore puts that into words
    if "incorrectly configured region" in text or code in ("PermanentRedirect", "AuthorizationHeaderMalformed"):
        return "the bucket is in another region: set AWS_REGION to the bucket's", True
    return "the server does not answer as it should; check the network and AWS_ENDPOINT_URL, then try again", False


def _make_bucket(scheme: str, bucket: str) -> str:
    return f"gcloud storage buckets create gs://{bucket}" if scheme == "gs" else f"aws s3 mb s3://{bucket}"


def _error_code(error: Exception) -> str:
    """The Code of an answer in S3's and GCS's XML."""
    found = re.search(r"<Code>(\w{1,64})</Code>", str(error))
    return found[1] if found else ""


def _first_line(error: Exception) -> str:
    """Without what the server says after its status, which may quote what was signed."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"\?\S*", "", line.split("<", 1)[0])[:300].strip(" :-")


def _is(error: Exception, name: str) -> bool:
    return any(each.__name__ == name for each in type(error).__mro__)


def _obstore() -> Any:
    try:
        import obstore
    except ImportError as error:
        raise RemoteError(
            "a run directory behind a URL needs the package obstore", advice="pip install obstore", wrong=True
        ) from error
    return obstore


def _open(url: str, *, timeout_s: float, retry_s: float) -> ObjectStore:
    if problem := secret_of(url):
        raise RemoteError(problem, advice="give the keys in the environment, as AWS_ACCESS_KEY_ID does", wrong=True)
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or (parts.scheme in ("s3", "gs") and not parts.netloc):
        raise RemoteError(
            f"{url!r} is no place for a run",
            advice="give a folder, s3://BUCKET/PATH or gs://BUCKET/PATH",
            wrong=True,
        )
    _obstore()
    from obstore.store import from_url

    if parts.scheme == "file":
        return from_url(url, mkdir=True)
    client: dict[str, Any] = {
        "timeout": timedelta(seconds=timeout_s),
        "connect_timeout": timedelta(seconds=min(CONNECT_TIMEOUT_S, timeout_s)),
    }
    config: dict[str, Any] = {}
    if parts.scheme == "s3":
        config = _aws_keys() | _aws_region(parts.netloc, timeout_s)
        client["allow_http"] = _aws_endpoint().startswith("http://")
    backoff = {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=5), "base": 2}
    retry = {"max_retries": 8, "retry_timeout": timedelta(seconds=retry_s), "backoff": backoff}
    try:
        settings: dict[str, Any] = {"config": config or None, "client_options": client, "retry_config": retry}
        return from_url(url, **settings)
    except Exception as error:  # a malformed setting; obstore has a class for each
        raise RemoteError(
            f"cannot open {url}: {_first_line(error)}", advice="correct the setting that it names", wrong=True
        ) from None


def _aws_endpoint() -> str:
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    return next((value for name in names if (value := os.environ.get(name))), "")


def _aws_keys() -> dict[str, str]:
    """The profile's keys, where nothing in the environment says who we are."""
    if any(os.environ.get(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE")):
        return {}
    path = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"
    parser = configparser.RawConfigParser()
    try:
        parser.read(Path(path).expanduser(), encoding="utf-8")
        section = dict(parser[os.environ.get("AWS_PROFILE") or "default"])
    except (configparser.Error, KeyError, UnicodeDecodeError, OSError):
        return {}
    names = {"aws_access_key_id": "access_key_id", "aws_secret_access_key": "secret_access_key"}
    names |= {"aws_session_token": "session_token"} if "aws_session_token" in section else {}
    return {ours: section[theirs] for theirs, ours in names.items()} if names.keys() <= section.keys() else {}


def _aws_region(bucket: str, timeout_s: float) -> dict[str, str]:
    """The bucket's own, which anybody may ask for; a wrong one would be refused. Another server has none."""
    if os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or _aws_endpoint():
        return {}
    import httpx

    try:
        answer = httpx.head(f"https://{bucket}.s3.amazonaws.com", timeout=min(CONNECT_TIMEOUT_S, timeout_s))
    except httpx.HTTPError:
        return {}
    region = answer.headers.get("x-amz-bucket-region")
    return {"region": region} if region else {}
