"""The tasks of CORE (Li et al. 2024, DataComp-LM) from a bundle's folder, as prompts, and what of them counts.

    core.yaml               icl_tasks: label, icl_task_type, dataset_uri, num_fewshot, continuation_delimiter
    eval_meta_data.csv      "Eval Task", "Random baseline" in percent
    eval_data/...jsonl      one item a line

Three kinds: of several choices the likeliest ends the query (multiple_choice), of several contexts the one under which
the ending is likeliest is right (schema), or every token of the ending is what the model would say (language_modeling).
Items are shuffled and examples drawn as nanochat draws them, so that the figures compare with those it publishes.
"""

from __future__ import annotations

import csv
import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CONFIG, BASELINES, ITEMS = "core.yaml", "eval_meta_data.csv", "eval_data"
KINDS = ("multiple_choice", "schema", "language_modeling")
SHUFFLE_SEED, EXAMPLES_SEED = 1337, 1234
Encode = Callable[[str], list[int]]


class BundleError(Exception):
    """Of a folder that is no bundle; `next` is what to do about it."""

    def __init__(self, code: str, problem: str, *, next: str):
        super().__init__(f"{problem}. Next: {next}")
        self.code, self.problem, self.next = code, problem, next


@dataclass(frozen=True, kw_only=True)
class Task:
    label: str
    kind: str
    items: Sequence[dict[str, Any]]  # shuffled
    num_examples: int
    delimiter: str
    baseline: float  # share right by chance

    def prompts(self, index: int) -> list[str]:
        """The texts to compare; for language_modeling the one without its ending and the one with it."""
        item = self.items[index]
        others = [n for n in range(len(self.items)) if n != index]
        drawn = random.Random(EXAMPLES_SEED + index).sample(others, min(self.num_examples, len(others)))
        before = "".join(self._texts(self.items[n])[self._right(self.items[n])] + "\n\n" for n in drawn)
        texts = [before + text for text in self._texts(item)]
        if self.kind == "language_modeling":
            without = before + item["context"].strip() + self.delimiter
            return [without.strip(), *texts]
        return texts

    def num_rows(self, index: int) -> int:
        """How many of the prompts go through the model."""
        return len(self._texts(self.items[index]))

    def gold(self, index: int) -> int:
        """Which of the prompts is right."""
        return self._right(self.items[index])

    def _texts(self, item: dict[str, Any]) -> list[str]:
        if self.kind == "multiple_choice":
            return [item["query"] + self.delimiter + choice for choice in item["choices"]]
        if self.kind == "schema":
            return [context + self.delimiter + item["continuation"] for context in item["context_options"]]
        return [item["context"].strip() + self.delimiter + item["continuation"]]

    def _right(self, item: dict[str, Any]) -> int:
        return 0 if self.kind == "language_modeling" else int(item["gold"])

    def rows(self, index: int, encode: Encode, bos_id: int) -> list[tuple[list[int], int, int]]:
        """(tokens, start, end) of each text: what counts is tokens[start:end]."""
        rows = [[bos_id, *encode(text)] for text in self.prompts(index)]
        if self.kind == "language_modeling":
            without, whole = rows
            return [(whole, _common(without, whole), len(whole))]
        if self.kind == "multiple_choice":
            start = min(_common(rows[0], row) for row in rows)
            return [(row, start, len(row)) for row in rows]
        same = min(_common(rows[0][::-1], row[::-1]) for row in rows)
        return [(row, len(row) - same, len(row)) for row in rows]

    def centred(self, accuracy: float) -> float:
        """0 is chance, 1 all right."""
        return (accuracy - self.baseline) / (1.0 - self.baseline)


def count_tokens(tasks: Sequence[Task], length: Callable[[str], float], context: int) -> float:
    """Of all that is computed, by a tenth of the items. `length`: tokens of a text, which is cut to the context."""
    tokens = 0.0
    for task in tasks:
        some = range(0, len(task.items), 10)
        rows = (text for index in some for text in task.prompts(index)[-task.num_rows(index) :])
        tokens += sum(min(context, 1 + length(text)) for text in rows) * len(task.items) / len(some)
    return tokens


def read_bundle(folder: Path, max_per_task: int | None = None) -> list[Task]:
    """Raises BundleError for a folder that is no bundle, naming the file and what is wrong with it."""
    try:
        import yaml  # only here: a machine that trains needs none
    except ImportError as error:
        raise BundleError(
            "no_yaml", f"{folder / CONFIG} is YAML, and pyyaml is not here", next="pip install pyyaml"
        ) from error
    where = folder / CONFIG
    try:
        asked = list(yaml.safe_load(where.read_text(encoding="utf-8"))["icl_tasks"])
        where = folder / BASELINES
        with where.open(encoding="utf-8", newline="") as file:
            chance = {row["Eval Task"]: float(row["Random baseline"]) / 100 for row in csv.DictReader(file)}
        tasks = []
        for one in asked:
            where = folder / ITEMS / one["dataset_uri"]
            items = [json.loads(line) for line in where.read_text(encoding="utf-8").splitlines() if line.strip()]
            random.Random(SHUFFLE_SEED).shuffle(items)
            task = Task(
                label=str(one["label"]),
                kind=one["icl_task_type"],
                items=items[:max_per_task],
                num_examples=int(one["num_fewshot"][0]),
                delimiter=one.get("continuation_delimiter", " "),
                baseline=chance[one["label"]],
            )
            if task.kind not in KINDS or not task.items:
                raise ValueError(f"{task.label}: {task.kind!r} with {len(items)} items; kinds are {', '.join(KINDS)}")
            for index in range(len(task.items)):
                task._texts(task.items[index])[task.gold(index)]
            tasks.append(task)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, yaml.YAMLError) as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise BundleError(
            "bad_bundle", f"{where}: {said}", next=f"give a folder with {CONFIG}, {BASELINES} and {ITEMS}/, unzipped"
        ) from error
    return tasks


def fingerprint(tasks: Sequence[Task]) -> str:
    """Sixteen hex digits of all that is asked: what was counted of another bundle is not gone on with."""
    digest = hashlib.sha256()
    for task in tasks:
        digest.update(json.dumps(asdict(task), sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens they begin with alike."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
