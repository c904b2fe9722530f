"""TEAM.md and TROUBLESHOOTING.md: their settings, sentences and links are the real ones, and what they print works."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from patron_core import settings, verbs
from patron_core.commands.environment import markdown
from patron_core.errors import PatronError
from patron_core.executors import skypilot
from patron_core.store import Run, Store, labs, ledger, runs
from trainer.contract import grace

ROOT = Path(__file__).parents[2]
TEAM, TROUBLE = ROOT / "notebooks" / "TEAM.md", ROOT / "notebooks" / "TROUBLESHOOTING.md"
# what Patron gives the processes that it starts; no person sets them
GIVEN = {
    "PATRON_ATTEMPT", "PATRON_COMMAND", "PATRON_CONTROL_KEY", "PATRON_DEADLINE_S", "PATRON_GRACE_S", "PATRON_JOB",
    "PATRON_IMAGE", "PATRON_PYTHON", "PATRON_REQUIREMENTS", "PATRON_RUN_DIR", "PATRON_SPEC", "PATRON_SAVE_AT_LEAST_S",
    "PATRON_SUBMITTED_AT",
}  # fmt: skip


def constants() -> Iterator[str]:
    for folder in ("patron_core", "trainer"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def test_the_table_of_settings_is_that_of_settings_py() -> None:
    """`patron settings --markdown` prints it anew."""
    assert TEAM.read_text(encoding="utf-8").rstrip().endswith(markdown())


def test_every_variable_that_is_read_is_a_setting_and_every_setting_is_read() -> None:
    words = Counter(word for word in constants() if re.fullmatch(r"PATRON_[A-Z_]*[A-Z]|MLFLOW_TRACKING_URI", word))
    assert set(words) - GIVEN == set(settings.SETTINGS)
    once = {name for name in settings.SETTINGS if words[name] == 1}  # in its own row alone
    assert once == {"PATRON_METADATA_GCP", "PATRON_METADATA_AWS"}  # read by their prefix and a cloud's name


def test_defaults_are_those_that_are_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = {name: row.default for name, row in settings.SETTINGS.items()}
    assert float(defaults["PATRON_STOP_WITHIN_S"]) == grace.STOP_WITHIN_S
    for name, used in {
        "PATRON_DATABASE_WAIT_S": settings.database_wait_s,
        "PATRON_CAPACITY_WAIT_S": settings.capacity_wait_s,
        "PATRON_SKY_POLL_S": settings.sky_poll_s,
        "PATRON_LOCAL_USD_PER_HOUR": lambda: settings.local_usd_micros_per_hour() / 1e6,
    }.items():
        monkeypatch.delenv(name, raising=False)
        assert used() == float(defaults[name]), name
    assert settings.runs_place() == f"{home}/runs"
    assert settings.database_url() == f"sqlite:///{home}/patron.db"
    monkeypatch.delenv("PATRON_HOME")
    assert settings.home() == Path.home() / ".patron"
    assert not hasattr(skypilot, "DEFAULT_POLL_S")


def test_every_sentence_that_is_explained_is_one_that_patron_says() -> None:
    said = list(constants())
    rows = re.findall(r"^\| (`.+?`) \|", TROUBLE.read_text(encoding="utf-8"), re.MULTILINE)
    phrases = [phrase for row in rows for phrase in re.findall(r"`([^`]+)`", row)]
    assert len(phrases) > 30
    assert [phrase for phrase in phrases if not any(phrase in words for words in said)] == []


def test_links_lead_somewhere() -> None:
    for page in (TEAM, TROUBLE, ROOT / "README.md"):
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]*(?:#[\w-]+)?)\)", text):
            if "://" in target:
                continue
            name, _, heading = target.partition("#")
            found = page.parent / name if name else page
            assert found.exists(), f"{page.name}: {target}"
            headings = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8") if heading else "", re.MULTILINE)
            assert not heading or heading in {re.sub(r"[^\w-]", "", h.lower().replace(" ", "-")) for h in headings}


def blocks(database: str) -> list[str]:
    """The blocks of commands that TEAM.md gives for the backup of a database, and for its restoring."""
    section = TEAM.read_text(encoding="utf-8").partition("## Backup and restore")[2].partition("\n## ")[0]
    part = section.partition(f"\n{database}:\n")[2]
    found = re.findall(r"((?:^    .+\n)+)", part, re.MULTILINE)[:2]
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in found]


def run_block(block: str, environ: dict[str, str]) -> str:
    done = subprocess.run(["bash", "-euc", block], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a member who has `patron` and PostgreSQL's programs on the PATH, and a home of their own."""
    for name in settings.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    folders = [str(Path(sys.executable).parent), *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
    monkeypatch.setenv("PATH", os.pathsep.join([*folders, os.environ["PATH"]]))
    return dict(os.environ)


def backed_up_and_restored(database: str, shell: dict[str, str], make_run: Callable[..., Run], restored: str) -> None:
    store = Store.open(shell.get("PATRON_DATABASE_URL"))
    before = make_run(store)
    verbs.deposit(store, project="p", usd_micros=1_000_000, key="d", actor="ada")
    lab = labs.lab_id(store)
    back_up, restore = blocks(database)
    run_block(back_up, shell)
    make_run(store, name="since then")
    store.close()
    run_block(restore, shell)
    again = Store.open(restored)
    assert [run.id for run in runs.list_runs(again)] == [before.id]
    assert labs.lab_id(again) == lab
    assert ledger.wallet(again, "p").available_usd_micros == 1_000_000
    assert ledger.verify(again) == []
    with pytest.raises((PatronError, sa.exc.DBAPIError), match="append-only"), again.begin() as conn:
        conn.execute(sa.text("DELETE FROM transfers"))
    make_run(again, name="and it goes on")
    again.close()


def test_sqlite_is_backed_up_and_restored_as_written(
    shell: dict[str, str], make_run: Callable[..., Run], tmp_path: Path
) -> None:
    backed_up_and_restored("SQLite", shell, make_run, f"sqlite:///{tmp_path}/.patron/patron.db")


def test_postgresql_is_backed_up_and_restored_as_written(
    postgres_server: str, shell: dict[str, str], make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(host=postgres_server, user="patron", dbname="postgres", autocommit=True) as admin:
        admin.execute("CREATE DATABASE lab")
        shell |= {"PGHOST": postgres_server, "PGUSER": "patron", "PATRON_DATABASE_URL": "postgresql:///lab"}
        for name in ("PGHOST", "PGUSER"):
            monkeypatch.setenv(name, shell[name])
        try:
            backed_up_and_restored("PostgreSQL", shell, make_run, "postgresql:///lab_restored")
        finally:
            for name in ("lab", "lab_restored"):
                admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
