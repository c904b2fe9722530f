"""Training code of others on paper: its files as a snapshot, its MLproject as a spec, its command as a line."""

from __future__ import annotations

import io
import json
import shlex
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import foreign
import pytest

from patron_core import verbs
from patron_core.errors import InvalidInput, PatronError, Refused, Unavailable
from patron_core.lifecycle.workload import foreign_spec
from patron_core.states import RunState
from patron_core.store import Store, runs
from patron_core.ui import report_page
from patron_core.workloads import mlproject, nanochat, sources
from patron_core.workloads.asking import CodeQuestion, ask, parameters_of
from patron_core.workloads.presets import PRESETS
from patron_core.workloads.sources import is_by_https, snapshot
from trainer.contract.foreign import ForeignSpec
from trainer.contract.spec import SpecError, TrainSpec

PLACES = {"work": "/w", "cache": "/c"}


def spec_of(**changed: Any) -> ForeignSpec:
    values = {
        "kind": "foreign",
        "name": "toy",
        "sources": "0" * 64,
        "command": "train --n {n} --text {text}",
        "parameters": {"n": 100, "text": "a"},
        "steps_parameter": "n",
    }
    return ForeignSpec.from_dict(values | changed)


@pytest.fixture
def repository(tmp_path: Path, home: Path) -> Path:
    folder = tmp_path / "toy"
    folder.mkdir()
    foreign.write(folder, {"MLproject": foreign.MLPROJECT, "train.py": "print(1)\n", ".gitignore": "data/\n"})
    foreign.commit(folder)
    return folder


def test_a_value_is_one_word_of_the_shell_whatever_is_in_it() -> None:
    evil = "a; touch /tmp/x && $(id) `id` 'b' \"c\""
    line = spec_of(parameters={"n": 100, "text": evil}).line(places=PLACES)
    assert shlex.split(line) == ["train", "--n", "100", "--text", evil]


def test_a_burst_changes_one_parameter_and_an_epoch_is_enough_of_one() -> None:
    spec = spec_of()
    assert spec.burst_value(8) == 8
    assert spec.line(places=PLACES, burst=8) == "train --n 8 --text a"
    epochs = spec_of(command="t {epochs}", parameters={"epochs": 10}, steps_parameter="epochs")
    assert epochs.burst_value(8) == 1
    assert spec_of(parameters={"n": 3, "text": "a"}).burst_value(8) == 3


def test_a_spec_says_all_that_is_wrong_with_it_and_keeps_its_hash() -> None:
    spec = spec_of(environment={"requirements": ["numpy==2"]}, shared=["data"])
    assert ForeignSpec.from_json(json.dumps(spec.to_dict())) == spec
    assert spec.hash() != spec_of().hash()
    with pytest.raises(SpecError) as refused:
        spec_of(
            command="t {gone} {n", parameters={"n": float("nan"), "a b": 1, "text": "x\0"}, sources="no",
            environment={"image": "a b", "gpu": 1}, shared=["../up"], variables={"A B": "x"}, colour=1,
        )  # fmt: skip
    said = str(refused.value)
    for part in ("command", "finite", "'a b'", "NUL", "sources", "image", "gpu", "../up", "A B", "colour"):
        assert part in said, part
    with pytest.raises(Exception, match=r"\{gone\} is no parameter"):
        spec_of(command="t {gone}")
    with pytest.raises(Exception, match="whole number from 1"):
        spec_of(parameters={"n": -1, "text": "a"})


def test_an_mlproject_is_read_with_types_defaults_and_what_it_runs_in() -> None:
    files = {
        "env.yaml": "python: '3.11'\ndependencies: [-r req.txt, mlflow==3.1]\n",
        "req.txt": "numpy==2  # arrays\n-r more.txt\n\n",
        "more.txt": "scipy\n",
        "conda.yaml": "dependencies: [python=3.10, pip, {pip: [torch]}]\n",
    }
    text = """
name: p
python_env: env.yaml
entry_points:
  main:
    parameters: {lr: {type: float, default: 1}, flag: {type: bool, default: true}, path: path}
    command: "x {lr} {path}"
"""
    project = mlproject.read(text, files)
    assert project.environment.requirements == ("numpy==2", "scipy", "mlflow==3.1")
    assert (project.environment.python, project.environment.kind()) == ("3.11", "requirements")
    values = mlproject.chosen(project.entry_points["main"], {"path": "a b", "lr": "1e-3"})
    assert values == {"lr": 1e-3, "flag": True, "path": "a b"}
    conda = mlproject.read(text.replace("python_env: env", "conda_env: conda"), files)
    assert (conda.environment.python, conda.environment.requirements) == ("3.10", ("torch",))
    with pytest.raises(InvalidInput) as refused:
        mlproject.chosen(project.entry_points["main"], {"lr": "fast", "rl": "1"})
    assert ["rl: unknown key" in p or "lr: 'fast'" in p or "path: it has no" in p for p in refused.value.problems]
    assert len(refused.value.problems) == 3
    for wrong in ("[]", "a: [", "name: x", "entry_points: {main: {}}", text.replace("env.yaml", "gone.yaml")):
        with pytest.raises(InvalidInput):
            mlproject.read(wrong, files)
    locked = mlproject.of_files({"uv.lock": "a", "pyproject.toml": "b", ".python-version": "3.10\n"})
    assert locked.kind() == "lock"
    assert (
        locked.hash() != mlproject.of_files({"uv.lock": "c", "pyproject.toml": "b", ".python-version": "3.10"}).hash()
    )


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"epochs": 3, "num_iterations": 100}, "num_iterations"),
        ({"num_epochs": 3, "lr": 0.1}, "num_epochs"),
        ({"lr": 0.1, "num_iterations": "many"}, None),
    ],
)
def test_what_shortens_a_run_is_found_by_its_name(values: dict[str, Any], found: str | None) -> None:
    assert mlproject.steps_parameter(values) == found


def test_a_folder_is_taken_as_it_is_with_its_diff_and_without_what_hides(repository: Path) -> None:
    (repository / "train.py").write_text("print(2)\n")
    foreign.write(repository, {"new.py": "3\n", ".env": "TOKEN=x\n", "data/big": "4\n", "sub/.key": "5\n"})
    (repository / "link").symlink_to("/etc/passwd")
    found = snapshot(str(repository))
    assert set(found.files) == {"MLproject", "train.py", ".gitignore", "new.py"}
    assert found.origin["commit"] == foreign.git(repository, "rev-parse", "HEAD")
    assert "-print(1)\n+print(2)" in found.origin["diff"]
    assert found.archive() == snapshot(str(repository)).archive()
    committed = snapshot(f"file://{repository}@main")
    assert committed.text("train.py") == "print(1)\n"
    assert "diff" not in committed.origin


def test_a_run_may_name_a_branch_or_a_patch(repository: Path) -> None:
    snapshot(f"{repository}@main")
    foreign.git(repository, "checkout", "--quiet", "-b", "experiment")
    (repository / "train.py").write_text("print('faster')\n")
    foreign.git(repository, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-am", "try")
    assert snapshot(f"{repository}@experiment").text("train.py") == "print('faster')\n"
    patch = foreign.git(repository, "diff", "main", "experiment") + "\n"
    patched = snapshot(f"{repository}@main", patch=patch)
    assert patched.text("train.py") == "print('faster')\n"
    assert patched.origin["patch"] == patch
    with pytest.raises(InvalidInput, match="does not apply"):
        snapshot(f"{repository}@experiment", patch=patch)
    with pytest.raises(InvalidInput, match="does not apply"):
        snapshot(f"{repository}@main", patch="--- /dev/null\n+++ b/../../evil\n@@ -0,0 +1 @@\n+x\n")


@pytest.mark.parametrize(
    "where",
    ["/no/such/folder", "ext::sh -c touch% /tmp/x", "--upload-pack=touch /tmp/x", "file:///no/repository@main", "a@b"],
)
def test_a_place_that_is_none_is_refused_and_not_run(where: str, home: Path) -> None:
    with pytest.raises(PatronError):
        snapshot(where)


def test_files_that_look_like_a_repository_run_nothing_where_a_patch_is_applied(repository: Path) -> None:
    ran = repository.parent / "ran"
    program = f"touch {ran}; cat"
    config = f'[core]\n\tbare = true\n[filter "x"]\n\tclean = {program}\n\tsmudge = {program}\n'
    files = {"HEAD": "ref: refs/heads/main\n", "config": config, "info/attributes": "* filter=x\n"}
    foreign.write(repository, files | {"objects/x": "x\n", "refs/x": "x\n"})
    foreign.commit(repository)
    patch = "--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-print(1)\n+print(2)\n"
    assert snapshot(f"file://{repository}", patch=patch).text("train.py") == "print(2)\n"
    assert not ran.exists()


def test_a_tracked_file_below_a_link_is_not_read(repository: Path, tmp_path: Path) -> None:
    foreign.write(repository, {"sub/secret": "1\n"})
    foreign.git(repository, "add", "--all")
    foreign.write(tmp_path / "outside", {"secret": "of mine\n"})
    (repository / "sub" / "secret").unlink()
    (repository / "sub").rmdir()
    (repository / "sub").symlink_to(tmp_path / "outside")
    assert "sub/secret" not in snapshot(str(repository)).files


@pytest.mark.parametrize("where", ["..@main:x", ".@main:x", "git@example.org:a/b", "ssh://example.org/a", "https:@a"])
def test_what_a_token_may_name_is_neither_a_folder_nor_opened_by_our_keys(
    repository: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    foreign.write(repository, {"https:/example.org/x": "a folder\n"})
    assert not is_by_https(where)
    assert not is_by_https("https://example.org@main")
    assert is_by_https("https://example.org/a/b@main")


def test_a_password_in_an_address_is_in_no_spec(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{repository}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://ada:planted-4711@example.org/toy")
    asked = ask(CodeQuestion(where="https://ada:planted-4711@example.org/toy@main"))
    assert asked.spec.origin["url"] == "https://***:***@example.org/toy"
    assert "planted-4711" not in json.dumps(asked.spec.to_dict())


def test_a_few_lines_that_stand_for_gigabytes_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 4)]  # 9 of them do it
    with pytest.raises(InvalidInput, match="alias"):
        mlproject.read("\n".join([*lines, "name: *a3", "entry_points: {main: {command: x}}"]), {})


def test_a_small_repository_with_endless_files_fills_no_memory(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_GIT_BYTES", 2**20)
    assert snapshot(f"file://{repository}").files
    foreign.write(repository, {f"same-{number}": "x" * 2**16 for number in range(20)})
    foreign.commit(repository)
    with pytest.raises(InvalidInput, match="more than 1,048,576 bytes"):
        snapshot(f"file://{repository}")


def test_git_that_does_not_answer_is_given_up(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "bin" / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(sources, "_GIT_S", 0.2)
    with pytest.raises(Unavailable, match="no answer within"):
        snapshot(f"file://{repository}")


def test_a_commit_that_there_is_not_is_named(repository: Path) -> None:
    with pytest.raises(PatronError, match="no commit, branch or tag 'gone'"):
        snapshot(f"file://{repository}@gone")
    with pytest.raises(PatronError):
        snapshot(f"file://{repository}@--output=x")


def test_a_folder_needs_an_mlproject_or_a_command(tmp_path: Path, home: Path) -> None:
    foreign.write(tmp_path / "plain", {"train.py": "1\n", "requirements.txt": "numpy\n"})
    where = str(tmp_path / "plain")
    with pytest.raises(InvalidInput, match="no MLproject"):
        ask(CodeQuestion(where=where))
    given = parameters_of(["steps=30", "name=a b"])
    asked = ask(CodeQuestion(where=where, command="python train.py {steps} {name}", parameters=given))
    assert asked.spec.parameters == {"steps": 30, "name": "a b"}
    assert asked.spec.steps_parameter == "steps"
    assert asked.spec.environment.requirements == ("numpy",)
    with tarfile.open(fileobj=io.BytesIO(asked.archive)) as archive:
        assert archive.getnames() == ["requirements.txt", "train.py"]
    with pytest.raises(InvalidInput, match="which parameter shortens it"):
        ask(CodeQuestion(where=where, command="python train.py {name}", parameters={"name": "x"}))


def test_presets_name_what_they_stand_for_and_what_came_out_of_it(sqlite_store: Store) -> None:
    run = verbs.plan_code(sqlite_store, question=CodeQuestion(where="hello"), actor="ada")
    assert (run.spec["name"], run.spec["origin"]["preset"]) == ("hello-world", "hello")
    theirs = nanochat.project().entry_points
    for name, preset in PRESETS.items():
        assert preset.where or preset.spec
        assert preset.baseline or name == "hello"
        if preset.spec:  # ours has the depth, the steps and the batch of theirs
            point = theirs[PRESETS[name.replace("ours", "nanochat")].entry_point].parameters
            recipe = TrainSpec.from_dict(preset.spec).recipe()
            assert (recipe.depth, recipe.num_steps) == (point["depth"].default, point["num_iterations"].default)
            assert recipe.batch_tokens == point["total_batch_size"].default
            with pytest.raises(InvalidInput, match="a training of ours"):
                ask(CodeQuestion(where=name))
    for point in theirs.values():
        values = {"name": "n", "sources": "0" * 64, "command": point.command, "parameters": mlproject.chosen(point, {})}
        line = ForeignSpec.from_dict(values | nanochat.extra()).line(places=PLACES, resume="--resume-from-step=20")
        assert line.endswith("--run=dummy --resume-from-step=20")


def test_what_lives_above_the_seam_takes_foreign_code_as_it_takes_a_depth(
    sqlite_store: Store, repository: Path
) -> None:
    store = sqlite_store
    run = verbs.plan_code(store, question=CodeQuestion(where=f"file://{repository}@main"), actor="ada", key="k")
    assert run.workload == "foreign"
    seen = verbs.view(store, run.id)
    assert seen.next == f"patron dryrun --run {run.id} --yes"
    assert verbs.compare(store, [run.id])[0].depth is None
    with pytest.raises(Refused, match="no dryrun"):
        verbs.repriced_any(store, run)
    with store.begin() as conn:  # as if a dryrun had proven it
        measured = {"step_s": 2.0, "step_s_spread": 0.1, "start_s": 10.0, "end_s": 5.0, "paced": True, "steps": 8}
        runs.set_fields(
            conn, run.id, now=1.0, dryrun={"measured": measured, "spec_hash": run.spec_hash, "attempt": "x"}
        )
        for state in (RunState.DRYRUN, RunState.AWAITING_FUNDING):
            run = runs.transition(conn, run.id, old=run.state, new=state, actor="ada", now=1.0)
    row = verbs.repriced_any(store, run)
    assert row.wall_s.low <= 10 + 60 * 2 + 5 <= row.wall_s.high
    amended = verbs.amend(store, run.id, changes={"num_iterations": "120"}, actor="ada")
    spec = foreign_spec(amended)
    assert spec is not None
    assert spec.num_steps == 120
    assert amended.dryrun["spec_hash"] == amended.spec_hash == spec.hash()
    assert amended.estimate["wall_s"]["mid"] > row.wall_s.mid
    with pytest.raises(InvalidInput, match="may change num_iterations"):
        verbs.amend(store, run.id, changes={"lr": 1}, actor="ada")
    # what to do after a failure is a command that plans the same again
    words = shlex.split(verbs.plan_again(runs.get_run(store, run.id)))
    assert words[:4] == ["patron", "dryrun", "--workload", f"file://{repository}@main"]
    assert {"num_iterations=120", "lr=0.5"} < set(words)
    report = verbs.report_of_run(store, run.id)
    assert "toy reach with num_iterations 120" in report.question
    assert shlex.split(report.commands[0]) == [*words[:-1], "--name", f"{run.name}-again", "--yes"]
    assert "depth" not in report_page.of_run(report)
    command = ask(CodeQuestion(where=str(repository), command="t {n}", parameters={"n": 3}, steps_parameter="n")).spec
    again = verbs.plan_again(replace(run, spec=command.to_dict()))
    assert shlex.split(again)[4:8] == ["--command", "t {n}", "--param", "n=3"]
