from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from training import Trainer


@pytest.fixture(scope="session")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    """Runs in this process use one thread, like those in processes of their own: sums depend on it."""
    made = Trainer(tmp_path_factory.mktemp("trainer"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATRON_CACHE", str(made.folder / "cache"))
        yield made
    torch.set_num_threads(threads)
