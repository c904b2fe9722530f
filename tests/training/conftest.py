from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from training import Trainer


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Like the processes that tests start: sums depend on the number, and small tensors are faster so."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    made = Trainer(tmp_path_factory.mktemp("trainer"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATRON_CACHE", str(made.folder / "cache"))
        yield made


# What a rented card's machine may be without; it has torch, triton, numpy, httpx, psutil and tokenizers.
MISSING = ("polars", "obstore", "marimo", "mlflow", "pydantic", "sqlalchemy", "altair", "moto", "hypothesis")


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What makes a process, and those that it starts, find none of the missing packages."""
    folder = tmp_path_factory.mktemp("bare")
    for name in MISSING:
        (folder / f"{name}.py").write_text(f'raise ModuleNotFoundError("No module named {name}", name="{name}")\n')
    return {"PYTHONPATH": str(folder)}
