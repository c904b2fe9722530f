"""CORE on a small made-up bundle: the prompts are upstream's, the figure is right, an interruption costs nothing."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from training import WORDS, Trainer

from trainer.contract.core_tasks import BundleError, count_tokens, read_bundle
from trainer.core import main
from trainer.sampling import core_scores
from trainer.sampling.core_scores import is_right
from trainer.sampling.loading import find_tokenizer

CHECKOUT = Path(os.environ.get("PATRON_NANOCHAT", ""))  # a checkout of karpathy/nanochat
YAML = """
icl_tasks:
- label: choices
  icl_task_type: multiple_choice
  dataset_uri: a/choices.jsonl
  num_fewshot: [2]
  continuation_delimiter: "\\nAnswer: "
- label: contexts
  icl_task_type: schema
  dataset_uri: contexts.jsonl
  num_fewshot: [0]
- label: endings
  icl_task_type: language_modeling
  dataset_uri: endings.jsonl
  num_fewshot: [3]
"""


def words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(WORDS, k=count))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng, folder = random.Random(0), tmp_path_factory.mktemp("bundle")
    items: dict[str, list[dict[str, Any]]] = {"a/choices": [], "contexts": [], "endings": []}
    for _ in range(40):
        choices = [words(rng, rng.randint(1, 4)) + end for end in (".", "!", "?")]
        items["a/choices"].append({"query": words(rng, 6), "choices": choices, "gold": rng.randrange(3)})
        options = [words(rng, 4), words(rng, 5) + ","]
        items["contexts"].append({"context_options": options, "continuation": words(rng, 3), "gold": rng.randrange(2)})
        items["endings"].append({"context": words(rng, 5) + " ", "continuation": words(rng, 2)})
    for name, rows in items.items():
        file = folder / "eval_data" / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "core.yaml").write_text(YAML)
    (folder / "eval_meta_data.csv").write_text(
        "Eval Task,Task Category,Random baseline\nchoices,x,25\ncontexts,x,50.0\nendings,x,0\n"
    )
    return folder


@pytest.fixture(scope="module")
def trained(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("core") / "run"
    assert trainer.train_here(run_dir, trainer.spec(num_steps=2, eval_every_steps=0)) == 0
    return run_dir


def core(run_dir: Path, bundle: Path, *options: str) -> int:
    return main([str(run_dir), "--bundle", str(bundle), "--json", *options])


def test_what_it_takes_is_counted_by_what_goes_through_the_model(trained: Path, bundle: Path) -> None:
    encode = find_tokenizer(trained).encode
    tasks = read_bundle(bundle, 1)
    rows = [tokens for task in tasks for tokens, _, _ in task.rows(0, encode, 0)]
    assert count_tokens(tasks, lambda text: len(encode(text)), 10**6) == sum(len(tokens) for tokens in rows)
    assert count_tokens(tasks, lambda text: len(encode(text)), 5) == 5 * len(rows)
    assert count_tokens(read_bundle(bundle), lambda text: 9.0, 10**6) == 10 * 40 * len(rows)


def test_tasks_are_measured_and_centred(trained: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert core(trained, bundle) == 0
    found = json.loads(capsys.readouterr().out)
    assert json.loads((trained / "core" / "step-000002.json").read_text()) == found
    rows = found["tasks"]
    assert [row["done"] for row in rows.values()] == [40, 40, 40]
    assert rows["choices"]["centred"] == pytest.approx((rows["choices"]["accuracy"] - 0.25) / 0.75)
    assert rows["endings"]["centred"] == rows["endings"]["accuracy"] < 0.3
    assert found["core"] == pytest.approx(sum(row["centred"] for row in rows.values()) / 3)
    assert core(trained, bundle, "--max-per-task", "10") == 0
    assert json.loads(capsys.readouterr().out)["tasks"]["choices"]["done"] == 10
    assert core(trained, bundle, "--price") == 0
    assert json.loads(capsys.readouterr().out)["seconds"] > 0


def test_an_interruption_loses_nothing(trained: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real SIGTERM amid the fiftieth item; then it goes on there."""
    path, looked = trained / "core" / "step-000002.json", []
    path.unlink(missing_ok=True)
    assert core(trained, bundle) == 0
    whole = json.loads(path.read_text())
    path.unlink()

    def interrupted(*given: Any) -> bool:
        looked.append(given)
        if len(looked) == 50:
            os.kill(os.getpid(), signal.SIGTERM)
        return is_right(*given)

    monkeypatch.setattr(core_scores, "is_right", interrupted)
    assert core(trained, bundle) == 75
    assert sum(row["done"] for row in json.loads(path.read_text())["tasks"].values()) == 50
    assert core(trained, bundle) == 0
    assert len(looked) == 120
    assert json.loads(path.read_text()) == whole


def test_figures_of_another_bundle_are_not_gone_on_with(trained: Path, bundle: Path, tmp_path: Path) -> None:
    """The same tasks by name, and every right answer another."""
    path = trained / "core" / "step-000002.json"
    assert core(trained, bundle, "--max-per-task", "5") == 0
    before = json.loads(path.read_text())
    other = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    items = other / "eval_data" / "contexts.jsonl"
    rows = [json.loads(line) for line in items.read_text().splitlines()]
    items.write_text("".join(json.dumps(row | {"gold": 1 - row["gold"]}) + "\n" for row in rows))
    assert core(trained, other, "--max-per-task", "5") == 0
    after = json.loads(path.read_text())
    assert after["tasks"]["contexts"]["right"] == 5 - before["tasks"]["contexts"]["right"]


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("core.yaml", "icl_tasks: 3", "core.yaml: TypeError"),
        ("eval_meta_data.csv", "Eval Task,Random baseline\nchoices,25\n", "KeyError: 'contexts'"),
        ("eval_data/endings.jsonl", '{"context": "a"}\n', "endings.jsonl: KeyError: 'continuation'"),
    ],
)
def test_a_folder_that_is_no_bundle_is_told(bundle: Path, tmp_path: Path, file: str, content: str, says: str) -> None:

    spoilt = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    (spoilt / file).write_text(content)
    with pytest.raises(BundleError, match=says):
        read_bundle(spoilt)


@pytest.mark.skipif(not (CHECKOUT / "nanochat/core_eval.py").is_file(), reason="PATRON_NANOCHAT is no checkout of it")
def test_what_is_compared_is_upstreams(trained: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every item of each kind the same tokens, and the same of them count."""
    pytest.importorskip("jinja2")
    monkeypatch.setattr(sys, "path", [str(CHECKOUT), *sys.path])
    from nanochat import core_eval as upstream  # type: ignore[import-not-found,unused-ignore]

    ours = find_tokenizer(trained)

    class Tokenizer:
        def get_bos_token_id(self) -> int:
            return ours.bos_id

        def __call__(self, texts: list[str], prepend: int) -> list[list[int]]:
            return [[prepend, *ours.encode(text)] for text in texts]

    short = {"multiple_choice": "mc", "schema": "schema", "language_modeling": "lm"}
    for task in read_bundle(bundle):
        render = getattr(upstream, f"render_prompts_{short[task.kind]}")
        batch = getattr(upstream, f"batch_sequences_{short[task.kind]}")
        for index, item in enumerate(task.items):
            rng, others = random.Random(1234 + index), [n for n in range(len(task.items)) if n != index]
            examples = [task.items[n] for n in rng.sample(others, task.num_examples)]
            tokens, starts, ends = batch(Tokenizer(), render(item, task.delimiter, examples))
            assert list(zip(tokens, starts, ends, strict=True)) == task.rows(index, ours.encode, ours.bos_id)
