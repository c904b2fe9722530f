"""Many processes as one `World`, over torch.distributed.

Numbers go through collectives: NCCL for tensors on a GPU, gloo for those in main memory, where decisions are made.
Words go through the rendezvous' key-value store, which needs nobody's cooperation: `stop` (what asked some rank to
stop), `verdict` (why the first rank ended), `alive/R` (rank R is here and has lost somebody), `over` (rank 0 has
written the last word), `left/R`.

When a rank dies, the collectives of the others break: at once over gloo, after PATRON_RANK_TIMEOUT_S (default 600)
over NCCL or when a machine fell silent. They raise RankLost, and `explain` finds out what happened.

A world of its own restarts nothing: whoever started it starts it again, with as many ranks as there are then.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from trainer.contract.exits import RankLost, TrainerExit, UserError, first_line
from trainer.runtime.world import Concluded, Look, Pending, T, World

LOOK_EVERY_S = 0.2  # at the store, for words of others
LAST_WORDS_S = 5.0  # for somebody to say why a collective broke
FAREWELL_S = 10.0  # rank 0 serves the store until the others have read the verdict

# their names until torch 2.12
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class Ranks(World):
    def __init__(self) -> None:
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.local_rank = int(os.environ.get("LOCAL_RANK", self.rank))
        self._timeout_s = float(os.environ.get("PATRON_RANK_TIMEOUT_S", "600"))
        self._next_look_at = 0.0
        self._gone: set[int] = set()
        self._agreed = False
        timeout = timedelta(seconds=self._timeout_s)
        backend = "gloo"
        if torch.cuda.is_available() and self.local_rank < torch.cuda.device_count():
            torch.cuda.set_device(self.local_rank)
            backend = "cpu:gloo,cuda:nccl"
        try:
            store, _, _ = next(iter(rendezvous("env://", timeout=timeout)))
            dist.init_process_group(
                backend, store=PrefixStore("group", store), rank=self.rank, world_size=self.size, timeout=timeout
            )
        except RuntimeError as error:
            raise UserError(
                f"rank {self.rank} of {self.size} did not find the others at {os.environ['MASTER_ADDR']}:"
                f"{os.environ['MASTER_PORT']} within {self._timeout_s:g} s ({error}). Start all of them with the same "
                "address, port and number, on machines that reach each other"
            ) from error
        self._words = PrefixStore("patron", store)

    # Decisions

    def sums(self, values: Sequence[float]) -> list[float]:
        tensor = torch.tensor(values, dtype=torch.float64)
        self.sum_(tensor)
        summed: list[float] = tensor.tolist()
        self._next_look_at = 0.0  # what a rank said before this call can be heard after it
        return summed

    def first_says(self, value: T) -> T:
        values = [value if self.is_first else None]
        with _losing_a_rank("a broadcast"):
            dist.broadcast_object_list(values, src=0)
        said: Any = values[0]
        return said  # type: ignore[no-any-return]

    def all_say(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.size
        with _losing_a_rank("a gathering"):
            dist.all_gather_object(values, value)
        return values

    # Tensors

    def start_sum_rows(self, full: Tensor) -> Pending:
        share = -(-full.size(0) // self.size)
        padded = _padded(full, share * self.size)
        own = torch.empty(share, *full.shape[1:], dtype=full.dtype, device=full.device)
        rows = self.rows(full.size(0))
        with _losing_a_rank("a sum"):
            work = _reduce_scatter(own, padded, async_op=True)
        return _UnderWay(work, own[: rows.stop - rows.start], padded)

    def start_collect_rows(self, own: Tensor, full: Tensor) -> Pending:
        share = -(-full.size(0) // self.size)
        whole = full if full.size(0) == share * self.size else full.new_empty(share * self.size, *full.shape[1:])
        sent = _padded(own.clone() if own.size(0) == share else own, share)  # never a view of what is overwritten
        with _losing_a_rank("a collection"):
            work = _all_gather(whole, sent, async_op=True)

        def finish() -> None:
            if whole is not full:
                full.copy_(whole[: full.size(0)])

        return _UnderWay(work, full, sent, finish)

    def gather_rows(self, own: Tensor, num_rows: int) -> Tensor | None:
        share = -(-num_rows // self.size)
        parts = None
        if self.is_first:
            full = own.new_empty(share * self.size, *own.shape[1:])
            parts = list(full.split(share))
        with _losing_a_rank("a gathering"):
            dist.gather(_padded(own, share).contiguous(), parts, dst=0)
        return full[:num_rows].cpu() if self.is_first else None

    def sum_(self, tensor: Tensor) -> None:
        with _losing_a_rank("a sum"):
            dist.all_reduce(tensor)

    def spread_(self, tensor: Tensor) -> None:
        with _losing_a_rank("a broadcast"):
            dist.broadcast(tensor, src=0)

    # Words

    def announce(self, word: str, value: str = "1") -> None:
        with _losing_a_rank("the rendezvous"):
            self._words.set(word, value)

    def wait_for(self, word: str, look: Look = lambda: None) -> None:
        while self._read(word) is None:
            verdict = self._read("verdict")
            if verdict is not None:
                raise Concluded(json.loads(verdict))
            look()
            time.sleep(LOOK_EVERY_S)

    def in_turn(self, name: str, work: Callable[[], T], look: Look = lambda: None) -> T:
        first_here = self.rank - self.local_rank
        if not self.is_first:
            self.wait_for(f"{name}/{0 if self.local_rank == 0 else first_here}", look)
        done = work()
        if self.local_rank == 0:
            self.announce(f"{name}/{self.rank}")
        return done

    def tell_stop(self, source: str) -> None:
        with suppress(RankLost), _losing_a_rank("the rendezvous"):
            self._words.compare_set("stop", "", source)

    def heard_stop(self) -> str | None:
        now = time.monotonic()
        if now < self._next_look_at:
            return None
        self._next_look_at = now + LOOK_EVERY_S
        return self._read("stop")

    def _read(self, word: str) -> str | None:
        with _losing_a_rank("the rendezvous"):
            return self._words.get(word).decode() if self._words.check([word]) else None

    # The end

    def agreed_to_end(self) -> None:
        self._agreed = True

    def explain(self, error: TrainerExit) -> dict[str, Any]:
        """A lost rank's own verdict, if it left one; else the names of those that are silent."""
        if not isinstance(error, RankLost):
            return super().explain(error)
        try:
            self.announce(f"alive/{self.rank}")
            end = time.monotonic() + LAST_WORDS_S
            while time.monotonic() < end:
                verdict = self._read("verdict")
                if verdict is not None:
                    return dict(json.loads(verdict))
                time.sleep(LOOK_EVERY_S)
            self._gone = {rank for rank in range(self.size) if self._read(f"alive/{rank}") is None}
        except RankLost:  # the store went with rank 0, or with what started it
            self._gone = {0}
        who = (
            f"no word from rank {', '.join(map(str, sorted(self._gone)))} of {self.size}"
            if self._gone
            else "all answer"
        )
        return {
            "exit_code": error.exit_code,
            "reason": error.reason,
            "message": f"{who}: killed, hung or cut off ({error}). Start again to resume from the newest checkpoint",
        }

    def publish(self, verdict: dict[str, Any]) -> None:
        if not self.is_first and not self._agreed:
            verdict = verdict | {"message": f"rank {self.rank}: {verdict['message']}"}
        with suppress(RankLost), _losing_a_rank("the rendezvous"):
            self._words.compare_set("verdict", "", json.dumps(verdict))

    def leave(self, exit_code: int) -> int:
        """Rank 0 leaves last, since it may serve the store. The others wait for it when they agreed to end, and only
        then: a rank that failed by itself must go, for its end is what the others notice.
        """
        with suppress(RankLost):
            if self.is_first:
                self.publish({"exit_code": exit_code, "reason": "over", "message": "rank 0 has ended"})
                self.announce("over", str(exit_code))
                others = set(range(1, self.size)) - self._gone
                self._wait_until(lambda: all(self._read(f"left/{rank}") for rank in others), FAREWELL_S)
            else:
                if self._agreed:
                    self._wait_until(lambda: self._read("over") is not None, self._timeout_s)
                    exit_code = int(self._read("over") or exit_code)
                self.announce(f"left/{self.rank}")
        return exit_code

    def _wait_until(self, holds: Callable[[], bool], timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        while not holds() and time.monotonic() < end:
            time.sleep(LOOK_EVERY_S / 4)


class _UnderWay(Pending):
    """Keeps the tensors of a communication alive until it is over."""

    def __init__(self, work: Any, result: Tensor, kept: Tensor, finish: Callable[[], None] = lambda: None):
        super().__init__(result)
        self._work, self._kept, self._finish = work, kept, finish

    def wait(self) -> Tensor:
        with _losing_a_rank("a communication"):
            self._work.wait()
        self._finish()
        return self._result


@contextmanager
def _losing_a_rank(what: str) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # gloo's are plain ones; the others derive from it
        cause = re.sub(r"^\[\S+\] ", "", first_line(error)).partition(". ")[0]  # without gloo's source file and advice
        raise RankLost(f"{what} broke: {cause}") from error


def _padded(tensor: Tensor, num_rows: int) -> Tensor:
    """With zero rows added; the tensor itself where none are."""
    missing = num_rows - tensor.size(0)
    if not missing:
        return tensor
    return torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])])
