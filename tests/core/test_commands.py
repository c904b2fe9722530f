"""The installed `patron`: its table, its words where a name is wrong, and that a wheel has all it needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import import_module
from pathlib import Path

import pytest

from patron_core import commands

ROOT = Path(__file__).parents[2]


def test_help_names_every_command_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["--help"]) == commands.main([]) == 0
    said = capsys.readouterr().out
    for name in (*commands.notebooks(), *commands.TABLE):
        (line, *_) = [line.split(maxsplit=1) for line in said.splitlines() if line.split()[:1] == [name]]
        assert len(line) == 2, f"{name} says nothing of itself"
        assert line[1].endswith((".", "?"))
    assert {path.stem.lstrip("0123456789_") for path in (ROOT / "notebooks").glob("*.py")} == set(commands.notebooks())
    assert not set(commands.notebooks()) & set(commands.TABLE)


@pytest.mark.parametrize("name", sorted(commands.TABLE))
def test_every_command_has_help_under_its_own_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        import_module(commands.TABLE[name][0]).main(["--help"])
    assert ended.value.code == 0
    assert f"usage: patron {name}" in capsys.readouterr().out


def test_a_wrong_name_is_told_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        commands.main(["dream", "--json"])
    assert ended.value.code == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert "'dream'" in error["message"]
    assert "watch" in error["message"]
    assert error["next"] == "patron --help"


def test_a_wheel_works_outside_the_checkout(home: Path, tmp_path: Path) -> None:
    """Notebooks and task files travel with it; nothing of the checkout is on the path."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    run = {"check": True, "capture_output": True, "text": True}
    subprocess.run([uv, "build", "--wheel", "--out-dir", tmp_path / "dist", ROOT], **run)
    subprocess.run([uv, "venv", "--python", sys.executable, tmp_path / "venv"], **run)
    python = tmp_path / "venv" / "bin" / "python"
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    subprocess.run([uv, "pip", "install", "--no-deps", "--offline", "--python", python, wheel], **run)
    empty = tmp_path / "empty"
    empty.mkdir()
    run |= {"cwd": empty, "env": os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")}}  # for what it needs
    patron = python.with_name("patron")
    installed = json.loads(subprocess.run([patron, "estimate", "--json"], **run).stdout)
    script = [sys.executable, ROOT / "notebooks" / "1_estimate.py", "--json"]
    assert installed == json.loads(subprocess.run(script, **run).stdout)
    code = "from pathlib import Path; from patron_core.executors import sky_task, staging; import patron_core as p;"
    code += "print(p.__file__, sky_task.setup_of_machines(), staging.stage(Path(p.__file__).parents[1]), sep='\\n')"
    where, setup, staged = subprocess.run([python, "-c", code], **run).stdout.splitlines()
    assert Path(where).is_relative_to(tmp_path)
    assert "its packages" in setup
    assert {path.name for path in Path(staged).iterdir()} == {
        "patron_core", "trainer", "pyproject.toml", "README.md", "LICENSE", "skypilot",
    }  # fmt: skip
    assert not (Path(staged) / "patron_core" / "shipped").exists()
