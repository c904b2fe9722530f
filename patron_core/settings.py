"""Where things are and what this machine costs. Read from the environment at each access, never copied at import.

PATRON_HOME             everything that must survive: database, runs, MLflow (default ~/.patron)
PATRON_DATABASE_URL     default SQLite in PATRON_HOME; postgresql+psycopg://... for a team
PATRON_DATABASE_WAIT_S  how long a database that is busy, or restarts, is waited for (default 60)
PATRON_CACHE            downloads, tokenizers, token shards (default PATRON_HOME/cache)
PATRON_LOCAL_USD_PER_HOUR   what an hour of this machine counts for (default 0.10: power and wear of a desktop)
PATRON_MAX_USD_PER_HOUR     no machine that costs more is considered (default: no cap)
PATRON_RUNS             where run directories are: a folder, s3://... or gs://... (default PATRON_HOME/runs)
PATRON_ADMINS           who may write off the runs of others' lost machines: names, with commas (default nobody)
PATRON_CAPACITY_WAIT_S  how long a run looks for a machine before its money is free again (default 1800)
PATRON_TOKEN            whose limits hold for what is run here (default: none, the owner's)
MLFLOW_TRACKING_URI     default SQLite in PATRON_HOME

A relative path means the working folder of whoever gives it; processes that are started elsewhere get `for_children`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from patron_core.errors import InvalidInput
from patron_core.money import parse_usd
from trainer.contract.urls import secret_of


def home() -> Path:
    return Path(os.environ.get("PATRON_HOME") or Path.home() / ".patron").expanduser().absolute()


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
    checkout = Path(__file__).parents[1]
    return checkout / name if (checkout / "pyproject.toml").is_file() else checkout / "patron_core" / "shipped" / name


def checkout() -> Path:
    """Where the sources are that this process runs."""
    return Path(__file__).parents[1]


def admins() -> frozenset[str]:
    return frozenset(name.strip() for name in os.environ.get("PATRON_ADMINS", "").split(",") if name.strip())


def cache() -> Path:
    return Path(os.environ.get("PATRON_CACHE") or home() / "cache").expanduser().absolute()


def runs_folder() -> Path:
    return home() / "runs"


def runs_place() -> str:
    """A folder, or a URL where machines elsewhere reach it, too."""
    place = os.environ.get("PATRON_RUNS") or str(runs_folder())
    if problem := secret_of(place):
        raise InvalidInput(
            [f"PATRON_RUNS: {problem}; keys go into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"],
            next="export PATRON_RUNS=s3://BUCKET/runs",
        )
    return place if "://" in place else _absolute(place)


def sky_infra() -> str:
    """The one place that SkyPilot may use, as it writes it: slurm/cluster/partition, gcp/us-central1; or empty."""
    return os.environ.get("PATRON_SKY_INFRA", "")


def database_url() -> str:
    return _absolute_sqlite(os.environ.get("PATRON_DATABASE_URL") or f"sqlite:///{home() / 'patron.db'}")


def tracking_uri() -> str:
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"
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
    return _seconds_above_zero("PATRON_DATABASE_WAIT_S", "60")


def capacity_wait_s() -> float:
    """Raises InvalidInput."""
    return _seconds_above_zero("PATRON_CAPACITY_WAIT_S", "1800")


def token() -> str:
    """The secret of a token; empty: whoever can open the database acts as its owner."""
    return os.environ.get("PATRON_TOKEN", "").strip()


def local_usd_micros_per_hour() -> int:
    """Raises InvalidInput: an unknown price refuses, it never counts as zero."""
    return _usd_above_zero("PATRON_LOCAL_USD_PER_HOUR", "0.10")


def max_usd_micros_per_hour() -> int | None:
    """Our own hourly cap, since SkyPilot's is not enforced on every cloud; None: no cap."""
    name = "PATRON_MAX_USD_PER_HOUR"
    return _usd_above_zero(name, "5.00") if os.environ.get(name) else None


def _seconds_above_zero(name: str, default: str) -> float:
    text = os.environ.get(name) or default
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise InvalidInput([f"{name}: {text!r}; allowed above 0 seconds"], next=f"export {name}={default}")
    return seconds


def _usd_above_zero(name: str, example: str) -> int:
    """The variable in micro-dollars, or of the example where it is not set."""
    text = os.environ.get(name, example)
    try:
        price = parse_usd(text)
    except ValueError as error:
        raise InvalidInput([f"{name}: {error}"], next=f"export {name}={example}") from error
    if price <= 0:
        raise InvalidInput([f"{name}: {text!r}; allowed above 0"], next=f"export {name}={example}")
    return price
