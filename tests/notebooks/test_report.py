"""A report: one file with everything, which asks nobody for anything and obeys no foreign word."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path

import foreign
import labs
import pytest
from browser import MARKS, chromium

from patron_core import verbs
from patron_core.commands import report as command
from patron_core.errors import NotFound
from patron_core.store import Run, Store, searches
from patron_core.store import runs as store_runs
from patron_core.ui import report_chart, report_page

PARTS = ("Question", "Forecast and outcome", "Curves", "Attempts", "Money", "Notes", "Make it again", "What the model")


def headings(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_a_finished_run_is_told_whole(runs: dict[str, Run], store: Store) -> None:
    run = runs["better"]
    verbs.write_note(store, project="lab", body="Deeper is **better**.", kind="hypothesis", run_id=run.id, actor="ada")
    verbs.write_note(store, project="lab", body="It was.", kind="result", links={"runs": ["rx", run.id]}, actor="ada")
    made = verbs.report_of_run(store, "d4-better")
    page = report_page.of_run(made)
    assert all(any(part in heading for heading in headings(page)) for part in PARTS)
    assert [note.kind for note in made.notes] == ["hypothesis", "result"]
    assert "Deeper is <strong>better</strong>." in page
    assert any("outside its forecast" in sentence for sentence in made.verdict)
    assert page.count("<polyline") == 2
    assert {one.quantity for one in made.forecasts} == {"val_bpb", "wall_s", "cost_usd_micros", "peak_memory_bytes"}
    assert made.commands[0].startswith("patron dryrun --depth 4")
    assert made.commands[1] == "patron launch --run d4-better-again --yes"
    moved = {entry.kind for entry in made.statement}
    assert {"hold", "charge", "release"} <= moved
    assert all(entry.run_id == run.id for entry in made.statement)


@pytest.mark.parametrize("which", ["draft", "proven", "running", "oom"])
def test_a_run_without_an_outcome_says_how_far_it_is(which: str, runs: dict[str, Run], store: Store) -> None:
    made = verbs.report_of_run(store, runs[which].id)
    page = report_page.of_run(made)
    assert "Forecast and outcome" in headings(page)
    is_over = store_runs.get_run(store, runs[which].id).state in verbs.TERMINAL
    assert ("this is what is known so far" in page) is not is_over


def test_foreign_code_is_told_by_what_it_is_and_logs(store: Store, tmp_path: Path) -> None:
    code = foreign.write(tmp_path / "toy", {"train.py": "print(1)"})
    question = verbs.CodeQuestion(where=str(code), command="python train.py {steps}", parameters={"steps": "3"})
    run = verbs.plan_code(store, question=question, name="toy", actor="ada", key="one")
    folder = Path(run.run_dir) / "events"
    folder.mkdir(parents=True, exist_ok=True)
    start = [labs._event(0, labs.START, f"{run.id}-t1", "start", None, num_steps=3)]
    logged = [labs._event(n, labs.START + n, f"{run.id}-t1", "metrics", n, metrics={"loss": 1 / n}) for n in (1, 2, 3)]
    (folder / f"{run.id}-t1-000000.jsonl").write_text("".join(f"{line}\n" for line in [*start, *logged]))
    made = verbs.report_of_run(store, run.id)
    assert made.question.startswith("What does toy reach with steps 3")
    assert made.commands[0].startswith(f"patron dryrun --workload {code} --command 'python train.py {{steps}}'")
    assert [value for _, value, _ in made.curves["loss"]] == [1, 1 / 2, 1 / 3]
    page = report_page.of_run(made)
    assert "depth None" not in page
    assert page.count("<polyline") == 1


def test_a_sweep_is_told_with_its_decisions_and_its_command(runs: dict[str, Run], store: Store) -> None:
    spec = {"depth": 2, "data": "stdlib", "num_steps": 20}
    asked = verbs.Sweep(name="rates", grid={"lr_scale": [0.5, 1]}, spec=spec, budget_usd_micros=90_000, seeds=2)
    with store.begin() as conn:
        question = json.loads(json.dumps(vars(asked)))
        decided = [{"kind": "plan", "sentence": "Two & more."}]
        searches.save(
            conn, search_id="wabcdefghij", project="lab", key="k1", question=question, state="done",
            decisions=decided, result=None, now=labs.START,
        )  # fmt: skip
        conn.exec_driver_sql(
            "UPDATE runs SET key = ? WHERE id = ?", ("sweep:wabcdefghij:lr_scale=1 seed=42", runs["better"].id)
        )
    made = verbs.report_of_search(store, "rates")
    assert [row.name for row in made.rows] == ["d4-better"]
    assert "Which lr_scale of 0.5, 1 is best, over 2 seeds, for at most $0.09?" in made.question
    assert made.commands == [
        "patron sweep --budget 0.09 --project lab --grid lr_scale=0.5,1 --seeds 2 --name rates-again --max-parallel 1 "
        "--depth 2 --set 'data=\"stdlib\"' --set num_steps=20 --yes"
    ]
    page = report_page.of_search(made)
    assert "<li>Two &amp; more.</li>" in page
    assert "d4-better" in page
    assert verbs.report_of_run(store, "d4-better").search is not None
    with pytest.raises(NotFound, match=r"there are rates|there are k1|there are"):
        verbs.report_of_search(store, "nobody")
    first = verbs.report_of_search(store, "first")  # a search from before its question was written in full
    assert first.commands[0].startswith("patron search --budget 0.05 --project lab --minutes 1")


def test_the_command_writes_one_file_and_says_where(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--run", "d4-better", "--out", str(tmp_path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    file = Path(answer["file"])
    assert file.name == f"d4-better-{runs['better'].id}.html"
    assert file.stat().st_size == answer["bytes"]
    assert answer["comparison"]["val_bpb"] == 1.741
    with pytest.raises(SystemExit) as ended:
        command.main(["--json"])
    assert ended.value.code == 2


def test_ticks_are_round_and_an_empty_curve_is_none() -> None:
    assert report_chart._ticks(0.0, 400) == [0, 100, 200, 300, 400]
    assert report_chart._ticks(1.72, 1.9) == [1.75, 1.8, 1.85, 1.9]
    assert report_chart.line([], title="x") == ""
    flat = report_chart.line([(1, 2.0, 0.0), (2, 2.0, 0.0)], title="flat", expected=(2.0, 2.0, 2.0))
    assert "nan" not in flat


@MARKS[0]
@MARKS[1]
def test_it_opens_offline_runs_nothing_and_fetches_nothing(
    runs: dict[str, Run], store: Store, home: Path, tmp_path: Path
) -> None:
    attack = "<script>window.ran=1</script><img src=http://evil.invalid/a.png onerror=window.ran=1>"
    note = "![p](http://evil.invalid/b.png) <img src=http://evil.invalid/c.png>"
    verbs.write_note(store, project="lab", body=note, title=attack, run_id=runs["better"].id, actor="ada")
    database = sqlite3.connect(home / "patron.db")
    database.execute("UPDATE runs SET name = ? WHERE id = ?", (f"name-{attack}", runs["better"].id))
    database.commit()
    database.close()
    file = tmp_path / "report.html"
    file.write_text(report_page.of_run(verbs.report_of_run(store, runs["better"].id)), encoding="utf-8")
    with chromium() as page:
        page.context.set_offline(True)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(file.as_uri())
        assert f"name-{attack}" in page.locator("h1").inner_text()
        assert asked == [file.as_uri()]
        assert page.evaluate("window.ran") is None
        assert page.locator("script, img, iframe, link, a").count() == 0
        assert said == []
        assert page.locator("svg polyline").count() == 2
        assert page.locator(".verdict").bounding_box()["width"] > 300
