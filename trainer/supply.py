"""The data of a run as its session and its loop see it: what is needed to begin, then batch after batch.

Whoever waits for data can be asked to stop. A source that does not answer any more stops the run as a notice does: the
step under way is dropped, a checkpoint is written, and the exit code says: try again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from trainer.contract.events import EventWriter
from trainer.contract.exits import BadSpec, TryAgain
from trainer.contract.files import cache_folder, read_json
from trainer.contract.layout import ENVIRONMENT
from trainer.contract.spec import TrainSpec
from trainer.data import DataError, PreparedData, StopWaiting, Unreachable
from trainer.data.ahead import Ahead, Order
from trainer.data.files import Progress
from trainer.data.keep import keep_of
from trainer.data.loader import Batch, TrainLoader, await_val, bos_val_batches, val_batches
from trainer.data.making import OnPhase, Wanted
from trainer.data.pin import pinned_revision
from trainer.data.prepare import Warn, horizon_rows, prepare_beside
from trainer.preemption.stop import NO_DATA, StopRequest, StopWatch
from trainer.runtime.console import Console
from trainer.runtime.world import World
from trainer.start import Start

BURST_EVAL_MICRO_BATCHES = 4
ALL = 2**62  # tokens


@dataclass(frozen=True, kw_only=True)
class Reports:
    progress: Progress
    on_phase: OnPhase
    warn: Warn


def begin(spec: TrainSpec, start: Start, row: int, reports: Reports) -> tuple[PreparedData, Ahead]:
    """What is needed to train from this row on, and the process beside that makes the rest. All ranks call it.

    Raises BadSpec, TryAgain, or StopWaiting when asked to stop.
    """
    world, cache = start.world, cache_folder()
    row = world.first_says(row)

    def stop_waiting_if_asked() -> None:
        if start.stop.requested() is not None:
            raise StopWaiting

    def work() -> tuple[PreparedData, Ahead]:
        return prepare_beside(
            order,
            _wanted(spec, start, row),
            makes=world.local_rank == 0,
            look=stop_waiting_if_asked,
            progress=reports.progress,
            on_phase=reports.on_phase,
            warn=reports.warn,
        )

    try:
        keep = keep_of(start.asked.run_dir, cache)
        revision = world.first_says(_revision(spec, start, keep, reports.progress) if world.is_first else None)
        order = Order(spec=spec, cache=cache, revision=revision, keep=keep)
        return world.in_turn("data", work, look=stop_waiting_if_asked)
    except Unreachable as error:
        raise TryAgain(str(error)) from error
    except DataError as error:
        fields = {"fitting": dict(error.fitting)} if error.fitting else {}
        raise BadSpec(str(error), fields=fields) from error


def _revision(spec: TrainSpec, start: Start, keep: str | None, progress: Progress) -> str | None:
    begun_with = (read_json(start.run_dir / ENVIRONMENT) or {}).get("data_source")
    return pinned_revision(spec.data, cache_folder(), keep=keep, begun_with=begun_with, progress=progress)


def _wanted(spec: TrainSpec, start: Start, row: int) -> Wanted:
    """The rows that this start trains and evaluates on; a burst does not need those of the whole horizon."""
    steps = start.asked.burst_steps
    end, val_tokens = horizon_rows(spec), spec.eval_tokens
    if steps is not None:
        rows_per_step = spec.recipe().batch_tokens // spec.sequence_len
        end = min(end, row + (steps + start.asked.rehearse) * rows_per_step)
        val_tokens = burst_eval_tokens(spec, start.world)
    elif spec.bos_eval_tokens:
        return Wanted(first_row=row, end_row=end)
    return Wanted(first_row=row, end_row=end, val_rows=max(1, val_tokens // spec.sequence_len))


def burst_eval_tokens(spec: TrainSpec, world: World) -> int:
    return BURST_EVAL_MICRO_BATCHES * spec.micro_batch_size(world.size) * spec.sequence_len


class Supply:
    """One rank's batches, in their order."""

    def __init__(
        self,
        spec: TrainSpec,
        data: PreparedData,
        *,
        world: World,
        stop: StopWatch,
        events: EventWriter,
        console: Console,
    ):
        self._data, self._sequence_len, self._world = data, spec.sequence_len, world
        self._batch_size = spec.micro_batch_size(world.size)
        self._stop, self._events, self._console = stop, events, console
        self._loader = TrainLoader(
            data,
            batch_size=self._batch_size,
            sequence_len=spec.sequence_len,
            seed=spec.seed,
            rank=world.rank,
            world_size=world.size,
        )
        self.state: Callable[[], dict[str, int]] = self._loader.state
        self.restore: Callable[[dict[str, int]], None] = self._loader.restore

    def next(self) -> Batch | None:
        """None when it is time to stop: asked to, also while waiting, or since there is no more data to be had."""
        if self._stop.requested() is None:
            with self._stopping_without_data():
                return self._loader.next()
        return None

    def val_batches(self, max_tokens: int, *, bos: bool = False) -> Iterator[Batch] | None:
        """This rank's share of the held-out rows, once they are there; None when any rank was asked to stop before.

        `bos`: nanochat's rows, for which all held-out text has to be there."""
        with self._stopping_without_data():
            await_val(self._data, self._sequence_len, ALL if bos else max_tokens)
        if self._world.sums([self._stop.requested() is not None])[0]:
            return None
        return (bos_val_batches if bos else val_batches)(
            self._data,
            self._batch_size,
            self._sequence_len,
            max_tokens,
            rank=self._world.rank,
            world_size=self._world.size,
        )

    @contextmanager
    def _stopping_without_data(self) -> Iterator[None]:
        try:
            yield
        except StopWaiting:
            pass
        except Unreachable as error:
            self._events.emit("warning", code="source_unreachable", message=str(error))
            self._console.say(f"warning: {error}")
            self._stop.notify(StopRequest(source=NO_DATA))
