"""README and CHANGELOG say what is there: the tree, the version, and commands that name real files and real flags."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from patron_core.commands import TABLE, notebooks

ROOT = Path(__file__).parents[1]
PROGRAM = re.compile(
    r"\b(?:python -m ([\w.]+)|(?:python|uv run|python3) ([\w./-]+\.py)|pytest (tests/[\w./-]+)|patron ([a-z]\w*))"
    r"([^`|#]*)"
)
FLAG = re.compile(r"(?<!\S)--[a-z][a-z0-9-]*")

# Prints {program: its help} for modules and scripts; one process, so that torch and marimo are imported once.
HELP = """
import contextlib, io, json, runpy, sys
from patron_core import commands
sys.path.insert(0, "")
found = {}
for program in json.loads(sys.argv[1]):
    sys.argv = [program, "--help"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        if program.endswith(".py"):
            runpy.run_path(program, run_name="__main__")
        elif "." in program:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            commands.main([program, "--help"])
    found[program] = out.getvalue()
print(json.dumps(found))
"""


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def tree() -> set[str]:
    """The paths that README's tree names."""
    block = read("README.md").partition("## The tree\n\n")[2].partition("\n## ")[0]
    named: set[str] = set()
    folder = ""
    for line in block.splitlines():
        indent = len(line) - len(line.lstrip())
        words = re.split(r"\s{2,}", line.strip())[0].split()
        if indent == 4 and words:
            folder = words[0]
            named |= {folder}
        elif indent == 6:
            named |= {folder + word for word in words}
    return named


def test_the_tree_is_the_real_one() -> None:
    named = tree()
    real: set[str] = set()
    for top in ("notebooks", "patron_core", "trainer", "skypilot", "tests"):
        real.add(f"{top}/")
        if top in ("skypilot", "tests"):
            continue
        for path in sorted((ROOT / top).iterdir()):
            if path.suffix == ".py" and path.name != "__init__.py":
                real.add(f"{top}/{path.name}")
            elif path.is_dir() and any(path.glob("*.py")):  # a package, or a folder of notebooks
                real.add(f"{top}/{path.name}/")
    assert named == real


def test_the_version_is_the_newest_of_the_changelog() -> None:
    newest = re.search(r"^## (\d+\.\d+\.\d+)", read("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    assert tomllib.loads(read("pyproject.toml"))["project"]["version"] == newest[1]


def commands() -> Iterator[tuple[str, str, str]]:
    """(where it is printed, module or file, the rest of its line) of every command in the pages."""
    for name in ("README.md", "CHANGELOG.md", "notebooks/TEAM.md", "notebooks/TROUBLESHOOTING.md"):
        text = read(name).replace("\\\n", " ")
        spans = re.findall(r"`([^`\n]+)`", text) + re.findall(r"^    (.+)$", text, re.MULTILINE)
        for span in spans:
            for match in PROGRAM.finditer(span):
                module, script, test, command, rest = match.groups()
                yield name, module or script or test or command, rest


def test_every_printed_command_names_what_is_there() -> None:
    found = list(commands())
    assert len(found) > 20, "the pattern no longer finds the commands"
    for where, program, _ in found:
        if "." not in program and "/" not in program:
            assert program in {*notebooks(), *TABLE}, f"{where} prints `patron {program}`, which is not there"
            continue
        path = ROOT / program
        if "/" not in program:
            path = ROOT / (program.replace(".", "/") + ".py")
            path = path if path.exists() else path.with_suffix("") / "__main__.py"
        if not program.startswith(("http", "modulename")) and program.split(".")[0].split("/")[0] in {
            "notebooks", "patron_core", "trainer", "tests", "skypilot",
        }:  # fmt: skip
            assert path.exists(), f"{where} prints a command of {program}, which is not there"


def test_every_printed_command_has_the_flags_that_it_is_given() -> None:
    asked: dict[str, set[str]] = {}
    for _, program, rest in commands():
        flags = set(FLAG.findall(rest))
        ours = {"notebooks", "patron_core", "trainer", "tests", *notebooks(), *TABLE}
        if flags and program.split(".")[0].split("/")[0] in ours:
            asked.setdefault(program, set()).update(flags)
    asked = {program: flags for program, flags in asked.items() if not program.startswith("tests/skylab")}
    done = subprocess.run(
        [sys.executable, "-c", HELP, json.dumps(sorted(asked))], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    helps: dict[str, str] = json.loads(done.stdout)
    for program, flags in asked.items():
        known = set(re.findall(r"--(?:\[no-\])?[a-z][a-z0-9-]*", helps[program]))
        known |= {flag.replace("[no-]", "") for flag in known} | {flag.replace("[no-]", "no-") for flag in known}
        assert flags <= known, f"{program} has no {', '.join(sorted(flags - known))}"


def test_no_file_of_the_benches_is_named_like_what_it_imports() -> None:
    """`python tests/bench/x.py` puts that folder first: a file `trainer.py` there hides the package."""
    imported = {*sys.stdlib_module_names, "patron_core", "trainer", "tests", "notebooks", "torch", "mlflow", "marimo"}
    imported |= {"numpy", "polars", "httpx", "sqlalchemy", "pydantic", "yaml", "sky"}
    for folder in [path for path in (ROOT / "tests").rglob("*") if path.is_dir() and path.name != "__pycache__"]:
        for path in folder.iterdir():
            assert path.stem not in imported or path.suffix not in ("", ".py"), path


def test_commands_are_words_that_a_shell_takes() -> None:
    for _, _, rest in commands():
        shlex.split(rest.partition("&&")[0])
