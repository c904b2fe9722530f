"""The processes that train one run together, seen from one of them. One process is the simplest world.

The loop is written once, against `World`, which is one process: everything here costs it nothing. Many processes are
`trainer.runtime.distributed.Ranks`, and come from

    torchrun --nproc-per-node 8 -m trainer.train SPEC.json RUN_DIR      (exits with 0 or 1; result.json says more)

Standard library at import, so that a bad spec is refused before torch loads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from trainer.contract.exits import TrainerExit

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
Look = Callable[[], object]  # called now and then during a wait; may raise


class Pending:
    """A communication that may still be under way. This one never was."""

    def __init__(self, result: Tensor):
        self._result = result

    def wait(self) -> Tensor:
        return self._result


class World:
    """One process."""

    rank = 0
    size = 1
    local_rank = 0

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all: events, console, checkpoints, result.json."""
        return self.rank == 0

    # Decisions. Every rank calls them, in the same order, and every rank gets the same answer.

    def sums(self, values: Sequence[float]) -> list[float]:
        """The sum over ranks of each value."""
        return list(values)

    def first_says(self, value: T) -> T:
        """Rank 0's value, which must pickle; what the others give does not matter."""
        return value

    def all_say(self, value: T) -> list[T]:
        """Every rank's value, in their order; they must pickle."""
        return [value]

    def first_decides(self, flag: bool) -> bool:
        return self.sums([float(flag and self.is_first)])[0] > 0

    def by_rank(self, value: float) -> list[float]:
        """One slot a rank for `sums`, this rank's filled."""
        return [value if rank == self.rank else 0.0 for rank in range(self.size)]

    # Tensors. Each rank owns an equal share of the rows of a tensor, the last ones perhaps fewer, or none.

    def rows(self, num_rows: int) -> slice:
        """Those that this rank owns."""
        share = -(-num_rows // self.size)
        start = min(self.rank * share, num_rows)
        return slice(start, min(start + share, num_rows))

    def start_sum_rows(self, full: Tensor) -> Pending:
        """Sum over ranks; the result is this rank's rows of it."""
        return Pending(full)

    def start_collect_rows(self, own: Tensor, full: Tensor) -> Pending:
        """Overwrite `full` with every rank's own rows; the result is `full`."""
        return Pending(full)

    def gather_rows(self, own: Tensor, num_rows: int) -> Tensor | None:
        """All rows, in main memory, on rank 0; None elsewhere. One process: the live tensor."""
        return own

    def sum_(self, tensor: Tensor) -> None:
        """Sum over ranks, in place."""

    def spread_(self, tensor: Tensor) -> None:
        """Overwrite with rank 0's content."""

    # Words, which need no cooperation of the others

    def announce(self, word: str) -> None:
        """Let those go on who await the word."""

    def wait_for(self, word: str, look: Look = lambda: None) -> None:
        """Until a rank has announced it. Raises Concluded when somebody ended the run instead."""

    def in_turn(self, name: str, work: Callable[[], T], look: Look = lambda: None) -> T:
        """Rank 0 first, then one process on each other machine, then the rest: what one caches the next ones find."""
        return work()

    def tell_stop(self, source: str) -> None:
        """This rank was asked to stop."""

    def heard_stop(self) -> str | None:
        """What asked another rank to stop."""
        return None

    # The end

    def agreed_to_end(self) -> None:
        """All ranks end here, for the same reason: those that are done wait for rank 0's last word."""

    def explain(self, error: TrainerExit) -> dict[str, Any]:
        """Exit code, reason and message: of the error; for a lost rank, what is known of why."""
        return {"exit_code": error.exit_code, "reason": error.reason, "message": str(error)}

    def publish(self, verdict: dict[str, Any]) -> None:
        """Why this rank ends, for those whom it leaves behind. The first word counts."""

    def leave(self, exit_code: int) -> int:
        """The last call of every rank. Returns the code to exit with."""
        return exit_code


ALONE = World()


class Concluded(TrainerExit):
    """Another rank ended the run while this one waited for it."""

    def __init__(self, verdict: dict[str, Any]):
        super().__init__(verdict["message"], reason=verdict["reason"])
        self.exit_code = verdict["exit_code"]
