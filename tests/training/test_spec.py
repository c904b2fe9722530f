"""The spec's door: what cannot run is refused with every problem at once, and a path means one place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.contract.spec import SpecError, TrainSpec

SMALL: dict[str, Any] = {"depth": 1, "sequence_len": 64, "vocab_size": 512, "batch_tokens": 256, "num_steps": 2}


@pytest.mark.parametrize("data", ["path:corpus", "path:./corpus", "path:other/../corpus"])
def test_a_relative_path_is_the_givers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str) -> None:
    monkeypatch.chdir(tmp_path)
    spec = TrainSpec.from_json(json.dumps(SMALL | {"data": data}))
    assert spec.data == f"path:{tmp_path / 'corpus'}"
    monkeypatch.chdir("/")
    assert TrainSpec.from_json(spec.to_json()).hash() == spec.hash()


def test_a_path_may_begin_at_home_and_have_brackets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert TrainSpec.from_dict(SMALL | {"data": "path:~/set [1]"}).data == f"path:{tmp_path}/set [1]"


@pytest.mark.parametrize("data", ["path:", "path:  ", "path:/a\0b", "books", 5, None, ["stdlib"]])
def test_data_that_names_nothing_is_refused(data: object) -> None:
    with pytest.raises(SpecError, match="data"):
        TrainSpec.from_dict(SMALL | {"data": data})


def test_an_odd_head_is_refused_beside_other_problems() -> None:
    with pytest.raises(SpecError) as caught:
        TrainSpec.from_dict(SMALL | {"head_dim": 17, "dim": 34, "data": "path:"})
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["head_dim", "data"]
