"""What this worker knows of its experiment, and the signals between the scheduler's parts."""

from __future__ import annotations

from collections import Counter

import anyio

from windtunnel.concurrency import Signal
from windtunnel.model import FailureKind, Status, StopKind
from windtunnel.scheduling.policy import FailureBudget, Tally, exceeded

__all__ = ["Ledger"]

_FAILED = frozenset({Status.FAILED, Status.TIMED_OUT})
_NOT_THE_CONFIGURATION = frozenset({FailureKind.SETUP, FailureKind.HOST})


class Ledger:
    """Counts, and whether to go on. Read and written by the event loop's tasks only.

    :param target: how many trials the experiment shall have.
    :ivar total: trials the experiment has, as far as is known here; others may have added some.
    :ivar pending: trials that wait to be claimed, likewise.
    :ivar work: set when a slot or a trial may be free.
    :ivar demand: set when more suggestions may be wanted, or something has ended.
    :ivar halt: set when what runs is to be cancelled; nothing more is begun either.
    :ivar closed_by: what ended the session though trials are left; None if nothing did.
    :ivar closed_because: the same in words.
    :ivar overtime: whether the experiment has used up its time: what runs then has timed out.
    """

    def __init__(self, target: int, failures: FailureBudget) -> None:
        self.target = target
        self.total = 0
        self.pending = 0
        self.work = Signal()
        self.demand = Signal()
        self.halt = anyio.Event()
        self.closed_by: StopKind | None = None
        self.closed_because: str | None = None
        self.overtime = False
        self._ends: Counter[int] = Counter()
        self.retried = self.aborted = self.stale_refused = self.lost = 0
        self._failures = failures
        self._setup_failed = 0

    @property
    def finished(self) -> dict[Status, int]:
        """Outcomes that were stored: status → number."""
        return {Status(value): number for value, number in self._ends.items()}

    @property
    def is_closed(self) -> bool:
        """Whether nothing more is begun."""
        return self.closed_because is not None or self.halt.is_set()

    def close(self, by: StopKind, reason: str) -> None:
        """Begin nothing more; what runs goes on. The first reason stays."""
        if self.closed_by is None:
            self.closed_by, self.closed_because = by, reason
        self.wake()

    def cancel(self) -> None:
        """Begin nothing more and cancel what runs."""
        self.halt.set()
        self.wake()

    def wake(self) -> None:
        """Let every part look again."""
        self.work.set()
        self.demand.set()

    def note(self, status: Status, kind: FailureKind | None) -> None:
        """Count an outcome that was stored, and close if that was one failure too many."""
        self._ends[status.value] += 1
        if status is not Status.SUCCEEDED and status in _FAILED:
            self._setup_failed += kind in _NOT_THE_CONFIGURATION
            reason = exceeded(self._failures, self._tally())
            if reason is not None:
                self.close("failures", reason)

    def _tally(self) -> Tally:
        failed = sum(self._ends[status.value] for status in _FAILED)
        return Tally(
            finished=failed + self._ends[Status.SUCCEEDED.value],
            failed=failed - self._setup_failed,
            setup_failed=self._setup_failed,
        )
