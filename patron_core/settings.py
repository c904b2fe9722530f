"""Where things are and what this machine costs. Read from the environment at each access, never copied at import.

PATRON_HOME             everything that must survive: database, runs, MLflow (default ~/.patron)
PATRON_DATABASE_URL     default SQLite in PATRON_HOME; postgresql+psycopg://... for a team
PATRON_CACHE            downloads, tokenizers, token shards (default PATRON_HOME/cache)
PATRON_LOCAL_USD_PER_HOUR   what an hour of this machine counts for (default 0.10: power and wear of a desktop)
MLFLOW_TRACKING_URI     default SQLite in PATRON_HOME
"""

from __future__ import annotations

import os
from pathlib import Path

from patron_core.errors import InvalidInput
from patron_core.money import parse_usd


def home() -> Path:
    return Path(os.environ.get("PATRON_HOME") or Path.home() / ".patron").expanduser().absolute()


def cache() -> Path:
    return Path(os.environ.get("PATRON_CACHE") or home() / "cache").expanduser().absolute()


def runs_folder() -> Path:
    return home() / "runs"


def database_url() -> str:
    return os.environ.get("PATRON_DATABASE_URL") or f"sqlite:///{home() / 'patron.db'}"


def tracking_uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"


def artifacts_folder() -> Path:
    return home() / "artifacts"


def local_usd_micros_per_hour() -> int:
    """Raises InvalidInput: an unknown price refuses, it never counts as zero."""
    text = os.environ.get("PATRON_LOCAL_USD_PER_HOUR", "0.10")
    try:
        price = parse_usd(text)
    except ValueError as error:
        raise InvalidInput(
            [f"PATRON_LOCAL_USD_PER_HOUR: {error}"], next="export PATRON_LOCAL_USD_PER_HOUR=0.10"
        ) from error
    if price <= 0:
        raise InvalidInput(
            [f"PATRON_LOCAL_USD_PER_HOUR: {text!r}; allowed above 0"], next="export PATRON_LOCAL_USD_PER_HOUR=0.10"
        )
    return price
