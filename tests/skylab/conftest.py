"""One lab for all of these tests; it comes up when the first of them needs it, in about a minute."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from corpus import write_corpus
from lab import ACCOUNT, Lab, edit, reason_not_to

LEFT_BY_A_KILLED_LAB = f"{ACCOUNT}:x:0:0::/nonexistent/login:/bin/bash"


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    reason = reason_not_to()
    if reason:
        pytest.skip(reason)
    edit("/etc/passwd", lambda lines: [*lines, LEFT_BY_A_KILLED_LAB])
    found = Lab(tmp_path_factory.mktemp("skylab"))
    found.up()
    try:
        yield found
    finally:
        found.down()
        assert found.processes() == []


@pytest.fixture(scope="session")
def spec(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny model on a tiny corpus; a step takes milliseconds."""
    corpus = tmp_path_factory.mktemp("corpus")
    write_corpus(corpus, 100)
    return {
        "depth": 1,
        "sequence_len": 64,
        "vocab_size": 512,
        "batch_tokens": 256,
        "device_batch_size": 4,
        "num_steps": 200,
        "data": f"path:{corpus}",
        "eval_tokens": 2048,
        "eval_every_steps": 50,
        "checkpoint_every_steps": 20,
        "device": "cpu",
        "dtype": "float32",
    }
