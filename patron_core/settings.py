"""Where things are and what this machine costs. Read from the environment at each access, never copied at import.

SETTINGS is all that can be set: name, default, kind and sentence are said there alone. `patron settings` prints it.
A relative path means the working folder of whoever gives it; processes that are started elsewhere get `for_children`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from patron_core.errors import InvalidInput
from patron_core.money import parse_usd
from trainer.contract.urls import secret_of


@dataclass(frozen=True)
class Setting:
    name: str
    default: str  # as it is used; PATRON_HOME in it is that folder. Empty: unset
    kind: str
    what: str


_ROWS = (
    Setting("PATRON_HOME", "~/.patron", "folder", "everything that must survive: database, runs, caches, MLflow"),
    Setting("PATRON_DATABASE_URL", "sqlite:///PATRON_HOME/patron.db", "URL", "`postgresql://...` for a team"),
    Setting("MLFLOW_TRACKING_URI", "sqlite:///PATRON_HOME/mlflow.db", "URL", "any MLflow server"),
    Setting("PATRON_RUNS", "PATRON_HOME/runs", "folder or URL", "where run directories are; `s3://` or `gs://` too"),
    Setting(
        "PATRON_RUNS_REGION", "", "place", "where that bucket is, for what moving its bytes costs: `gcp/us-central1`"
    ),
    Setting("PATRON_CACHE", "PATRON_HOME/cache", "folder", "downloads, tokenizers, token shards"),
    Setting(
        "PATRON_ADMINS", "", "names", "who may write off the runs of others' lost machines; with commas between them"
    ),
    Setting("PATRON_TOKEN", "", "secret", "whose limits hold for what is run here; unset, the owner's"),
    Setting(
        "PATRON_ALERT_WEBHOOK", "", "secret", "where alerts are posted as JSON: a URL of Slack, Discord, ntfy, or yours"
    ),
    Setting("PATRON_ALERT_EMAIL", "", "addresses", "who gets alerts by e-mail; with commas between them"),
    Setting(
        "PATRON_ALERT_SMTP",
        "",
        "secret",
        "by which server, user and password before its name: `smtp://HOST:587`, or `smtps://`",
    ),
    Setting("PATRON_ALERT_FROM", "", "address", "from whom that is; unset, from the first of its readers"),
    Setting("PATRON_ALERT_KINDS", "", "names", "only these are sent, with commas between them; unset, all"),
    Setting("PATRON_LOCAL_USD_PER_HOUR", "0.10", "dollars", "what an hour of this machine counts for"),
    Setting("PATRON_MAX_USD_PER_HOUR", "", "dollars", "nothing that costs more an hour is considered"),
    Setting("PATRON_DATABASE_WAIT_S", "60", "seconds", "how long a busy or restarting database is waited for"),
    Setting("PATRON_CAPACITY_WAIT_S", "1800", "seconds", "how long a run looks for a machine before its money is free"),
    Setting("PATRON_STOP_WITHIN_S", "10", "seconds", "from a request to stop to the end of a trainer; at least 2"),
    Setting(
        "PATRON_SKY_INFRA", "", "place", "rented machines only there: `gcp/us-central1`, `slurm/cluster/partition`"
    ),
    Setting("PATRON_SKY_PYTHON", "", "path", "a python on rented machines that has everything: nothing is installed"),
    Setting("PATRON_SKY_CACHE", "", "folder", "`PATRON_CACHE` of rented machines; unset, `~/.cache/patron` there"),
    Setting(
        "PATRON_SKY_POLL_S", "10", "seconds", "how often a run at SkyPilot is looked at, and how old its answer may be"
    ),
    Setting("PATRON_SCRATCH", "PATRON_CACHE/runs", "folder", "where a trainer works on a run that lives in a bucket"),
    Setting("PATRON_NOTICE_FILE", "", "path", "once it exists, a trainer saves and stops"),
    Setting("PATRON_METADATA_GCP", "", "URL", "where Google's reclaim notice is asked for; `off`: nowhere"),
    Setting("PATRON_METADATA_AWS", "", "URL", "the same for Amazon's"),
    Setting("PATRON_RANK_TIMEOUT_S", "600", "seconds", "how long the processes of a training wait for one of them"),
    Setting("PATRON_CLIMBMIX_URL", "", "URL", "a mirror of the corpus; unset, Hugging Face"),
    Setting("PATRON_FINEWEB_EDU_URL", "", "URL", "a mirror of the corpus; unset, Hugging Face"),
)
SETTINGS = {row.name: row for row in _ROWS}
SECRETS = frozenset(row.name for row in _ROWS if row.kind == "secret")  # no workload gets one


def home() -> Path:
    return Path(_text("PATRON_HOME")).expanduser().absolute()


def make_home() -> Path:
    """PATRON_HOME, made for its owner alone: it holds the lab, its logs, and what jobs have in their environment."""
    folder = home()
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    elif (folder / "patron.db").exists() and folder.stat().st_uid == os.getuid() and folder.stat().st_mode & 0o077:
        folder.chmod(0o700)  # made by an older Patron
    return folder


def keep_private() -> None:
    """What this process makes from now on, and what its children make, is for its owner alone."""
    os.umask(0o077)


def shipped(name: str) -> Path:
    """A folder or file that comes with Patron: `notebooks`, `skypilot`, `README.md`. Beside the packages in a checkout,
    inside this one where it was installed from a wheel."""
    root = checkout()
    return root / name if (root / "pyproject.toml").is_file() else root / "patron_core" / "shipped" / name


def checkout() -> Path:
    """Where the sources are that this process runs."""
    return Path(__file__).parents[1]


def admins() -> frozenset[str]:
    return frozenset(_names("PATRON_ADMINS"))


def cache() -> Path:
    return Path(_text("PATRON_CACHE")).expanduser().absolute()


def runs_place() -> str:
    """A folder, or a URL where machines elsewhere reach it, too."""
    place = _text("PATRON_RUNS")
    if problem := secret_of(place):
        raise InvalidInput(
            [f"PATRON_RUNS: {problem}; keys go into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"],
            next="export PATRON_RUNS=s3://BUCKET/runs",
        )
    return place if "://" in place else _absolute(place)


def sky_infra() -> str:
    """The one place that SkyPilot may use, as it writes it: slurm/cluster/partition, gcp/us-central1; or empty."""
    return _text("PATRON_SKY_INFRA")


def database_url() -> str:
    return _absolute_sqlite(_text("PATRON_DATABASE_URL"))


def tracking_uri() -> str:
    uri = _text("MLFLOW_TRACKING_URI")
    is_folder = ":" not in uri and uri != "databricks"  # a word of MLflow's own
    return _absolute(uri) if is_folder else _absolute_sqlite(uri)


def for_children() -> dict[str, str]:
    """The environment for a process with another working folder: every place in it is absolute.

    Without PATRON_TOKEN: what runs in the background runs for the lab, and a workload is no place for a secret.
    """
    places = {
        "PATRON_HOME": str(home()),
        "PATRON_CACHE": str(cache()),
        "PATRON_RUNS": runs_place(),
        "PATRON_DATABASE_URL": database_url(),
        "MLFLOW_TRACKING_URI": tracking_uri(),
    }
    inherited = {name: value for name, value in os.environ.items() if name != "PATRON_TOKEN"}
    return inherited | {name: place for name, place in places.items() if os.environ.get(name)}


def for_workloads() -> dict[str, str]:
    """The environment for what is not ours: without our secrets."""
    return {name: value for name, value in os.environ.items() if name not in SECRETS}


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _absolute_sqlite(url: str) -> str:
    """Any other URL as it is."""
    relative = re.fullmatch(r"(sqlite(?:\+\w+)?:///)(?![/:]|file:)([^?]+)(.*)", url, re.DOTALL)
    return f"{relative[1]}{_absolute(relative[2])}{relative[3]}" if relative else url


def artifacts_folder() -> Path:
    return home() / "artifacts"


def database_wait_s() -> float:
    """Raises InvalidInput."""
    return _seconds_above_zero("PATRON_DATABASE_WAIT_S")


def sky_poll_s() -> float:
    """Raises InvalidInput."""
    return _seconds_above_zero("PATRON_SKY_POLL_S")


def capacity_wait_s() -> float:
    """Raises InvalidInput."""
    return _seconds_above_zero("PATRON_CAPACITY_WAIT_S")


def token() -> str:
    """The secret of a token; empty: whoever can open the database acts as its owner."""
    return _text("PATRON_TOKEN").strip()


def alert_webhook() -> str:
    return _text("PATRON_ALERT_WEBHOOK").strip()


def alert_smtp() -> str:
    return _text("PATRON_ALERT_SMTP").strip()


def alert_email() -> list[str]:
    return _names("PATRON_ALERT_EMAIL")


def alert_from() -> str:
    return _text("PATRON_ALERT_FROM").strip()


def alert_kinds() -> frozenset[str]:
    """Empty: all."""
    return frozenset(_names("PATRON_ALERT_KINDS"))


def local_usd_micros_per_hour() -> int:
    """Raises InvalidInput: an unknown price refuses, it never counts as zero."""
    return _usd_above_zero("PATRON_LOCAL_USD_PER_HOUR")


def max_usd_micros_per_hour() -> int | None:
    """Our own hourly cap, since SkyPilot's is not enforced on every cloud; None: no cap."""
    name = "PATRON_MAX_USD_PER_HOUR"
    return _usd_above_zero(name) if os.environ.get(name) else None


def _text(name: str) -> str:
    """As it is set, or by default."""
    given, default = os.environ.get(name), SETTINGS[name].default
    return given or (default if name == "PATRON_HOME" else default.replace("PATRON_HOME", str(home())))


def _names(name: str) -> list[str]:
    return [each.strip() for each in _text(name).split(",") if each.strip()]


def _seconds_above_zero(name: str) -> float:
    text = _text(name)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise InvalidInput(
            [f"{name}: {text!r}; allowed above 0 seconds"], next=f"export {name}={SETTINGS[name].default}"
        )
    return seconds


def _usd_above_zero(name: str) -> int:
    """The variable in micro-dollars, or its default."""
    example = SETTINGS[name].default or "5.00"
    text = os.environ.get(name, example)
    try:
        price = parse_usd(text)
    except ValueError as error:
        raise InvalidInput([f"{name}: {error}"], next=f"export {name}={example}") from error
    if price <= 0:
        raise InvalidInput([f"{name}: {text!r}; allowed above 0"], next=f"export {name}={example}")
    return price
