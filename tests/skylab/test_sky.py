"""The sky executor and the core above it, on a real SkyPilot on a real Slurm. Each test judges one scene (scenes.py).

A managed job takes a minute to start, so the scenes are played beside each other, in one lab, by the first test.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

import scenes
from lab import Lab
from world import Core, SkyWorld, until

from patron_core.errors import Unavailable
from patron_core.executors import skypilot_client
from patron_core.executors.base import ObservedStatus
from patron_core.executors.skypilot import SkyExecutor

AT_ONCE = 3  # a launch takes half a minute of a core, and SkyPilot looks at each job with seconds of one
SCENE_WITHIN_S = 1200.0  # on a busy machine; the longest takes six minutes on an idle one
PLAYED = scenes.SCENES if os.environ.get("PATRON_LAB") == "all" else scenes.DAILY
Outcomes = dict[str, Future[None]]


@pytest.fixture(scope="module")
def home(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One PATRON_HOME for all scenes: they share a process, a store and a supervisor."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in lab.environ().items():
            patch.setenv(name, value)
        patch.setenv("PATRON_HOME", str(folder))
        patch.setenv("PATRON_SKY_INFRA", "slurm/lab/spot")
        patch.setenv("PATRON_SKY_PYTHON", sys.executable)
        patch.setenv("PATRON_SKY_CACHE", str(folder / "cache"))
        patch.setenv("PATRON_SKY_POLL_S", "8")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(skypilot_client, "LAUNCH_SEEN_S", 100.0)  # the contract's tests submit once
        for name in ("PATRON_DATABASE_URL", "PATRON_CACHE", "PATRON_RUNS", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture(scope="module")
def outcomes(lab: Lab, home: Path, spec: dict[str, Any], request: pytest.FixtureRequest) -> Iterator[Outcomes]:
    """The scenes of the tests that were asked for, all on their way. Each test waits for its own."""
    core = Core(lab)
    wanted = {item.callspec.id for item in request.session.items if hasattr(item, "callspec")}
    pool = ThreadPoolExecutor(AT_ONCE)
    yield {
        scene.__name__: pool.submit(scene, core, spec, home / "scenes") for scene in PLAYED if scene.__name__ in wanted
    }
    pool.shutdown(wait=False, cancel_futures=True)
    core.close()


@contextmanager
def judged(lab: Lab) -> Iterator[None]:
    """What fails says what SkyPilot's server and sshd complained of."""
    try:
        yield
    except Exception as error:
        error.add_note(lab.last_words())
        raise


@pytest.mark.timeout(SCENE_WITHIN_S + 120)  # the first one also brings the lab up
@pytest.mark.parametrize("scene", PLAYED, ids=lambda scene: scene.__name__)
def test_scene(lab: Lab, outcomes: Outcomes, scene: Callable[..., None]) -> None:
    """One that hangs fails alone: the others are judged by what they did."""
    with judged(lab):
        outcomes[scene.__name__].result(timeout=SCENE_WITHIN_S)


@pytest.mark.timeout(SCENE_WITHIN_S + 600)
def test_a_server_that_is_stopped_is_unreachable_and_the_job_goes_on_when_it_is_back(
    lab: Lab, outcomes: Outcomes, home: Path
) -> None:
    wait(outcomes.values(), timeout=SCENE_WITHIN_S)  # none of them would survive it
    with judged(lab):
        _stop_the_server(lab, home)


def _stop_the_server(lab: Lab, home: Path) -> None:
    world = SkyWorld(home / "scenes", "server")
    executor = SkyExecutor()
    handle = executor.submit(world.job("stops"))
    until(lambda: executor.poll(handle).status is ObservedStatus.RUNNING, "it to run")
    lab.sky("api", "stop")
    try:
        until(lambda: executor.poll(handle).status is ObservedStatus.UNREACHABLE, "nobody to answer")
        assert executor.poll(handle).evidence["next"] == "sky api start"
        with pytest.raises(Unavailable) as refused:
            executor.find(handle["key"])
        assert refused.value.next == "sky api start"
    finally:
        lab.sky("api", "start", timeout_s=120)
    until(lambda: executor.poll(handle).status is ObservedStatus.RUNNING, "it to run on")
    assert executor.find(handle["key"]) == handle
    assert world.num_starts() <= 2  # the restarted server may bring it back once
