"""Which of this machine's credentials reach a rented one, by the place of the runs.

SkyPilot copies files there: ~/.aws, gcloud's login. Of the environment nothing goes but what `carried` names, which are
no secrets: another S3 server (R2, MinIO), the region, the profile.
"""

from __future__ import annotations

import configparser
import os
from pathlib import Path
from urllib.parse import urlsplit

from patron_core.errors import Refused

_CARRIED = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE")
_ONLY_HERE = ("127.0.0.1", "localhost", "::1", "0.0.0.0")


def carried(place: str) -> dict[str, str]:
    """What a task is given of this environment, so that its machine finds the same bucket."""
    if not place.startswith("s3://"):
        return {}
    return {name: value for name in _CARRIED if (value := os.environ.get(name))}


def check_travel(place: str, *, shares_this_machine: bool = False) -> str:
    """What machines will read, as a sentence. Raises Refused with the command that mends it where they could not.

    `shares_this_machine`: machines that are this one, as in a Slurm on it, reach its own addresses.
    """
    if place.startswith("s3://"):
        return _check_aws(shares_this_machine)
    if place.startswith("gs://"):
        return _check_gcp()
    return "none are needed for a folder"


def _check_aws(shares_this_machine: bool) -> str:
    sent = carried("s3://")
    endpoint = sent.get("AWS_ENDPOINT_URL_S3") or sent.get("AWS_ENDPOINT_URL") or ""
    if urlsplit(endpoint).hostname in _ONLY_HERE and not shares_this_machine:
        raise Refused(
            f"AWS_ENDPOINT_URL is {endpoint}, an address that only this machine can reach",
            next="export AWS_ENDPOINT_URL=https://an.address.that.machines.reach",
        )
    profile = os.environ.get("AWS_PROFILE") or "default"
    keys = _section(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials", profile)
    settings = _section(os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config", f"profile {profile}", profile)
    with_server = f", at {endpoint}" if endpoint else ""
    if "aws_access_key_id" in keys:
        if elsewhere := os.environ.get("AWS_SHARED_CREDENTIALS_FILE"):
            raise Refused(
                f"the keys are in {elsewhere}; what SkyPilot copies is ~/.aws/credentials",
                next=f"aws configure --profile {profile}",
            )
        return f"machines get the keys of profile {profile} in ~/.aws/credentials{with_server}"
    if any(name.startswith("sso_") for name in settings):
        raise Refused(
            f"profile {profile} is an SSO login, which works on AWS machines alone and ends with its session",
            next=f"aws configure --profile {profile}",
        )
    where = "in this environment alone" if os.environ.get("AWS_ACCESS_KEY_ID") else "nowhere that SkyPilot looks"
    raise Refused(
        f"the S3 keys are {where}; machines get ~/.aws/credentials, and it has none for profile {profile}",
        next=f"aws configure --profile {profile}",
    )


def _check_gcp() -> str:
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    folder = Path(os.environ.get("CLOUDSDK_CONFIG") or "~/.config/gcloud").expanduser()
    login = Path(named).expanduser() if named else folder / "application_default_credentials.json"
    if not login.exists():
        raise Refused(f"there is no gcloud login at {login}", next="gcloud auth application-default login")
    return f"machines get the gcloud login in {login}"


def _section(path: str, *names: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(Path(path).expanduser(), encoding="utf-8")
    except (OSError, configparser.Error, UnicodeDecodeError):
        return {}
    return next((dict(parser[name]) for name in names if parser.has_section(name) or name in parser), {})
