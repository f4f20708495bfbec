"""Every error this package raises on purpose.

::

    WindtunnelError
    ├── ConfigError              the experiment's description is wrong (exit code 2)
    │   ├── TunableError         a tunable or a value for one
    │   └── MissingService       an environment needs a service nobody provides
    ├── EnvironmentFailed        a step of a trial did not succeed; the trial fails, nothing else does
    │   ├── CommandFailed        a script line ended with a status other than 0
    │   ├── StepTimedOut         a step used up its time
    │   ├── ResultsInvalid       what the trial reported cannot be used
    │   └── HostFailed           it is the host that failed, not what ran there
    │       ├── HostUnreachable  no connection could be made, or nothing can be run on it
    │       ├── HostKeyRefused   it does not prove to be the host we know
    │       ├── LoginRefused     it does not let us in
    │       └── HostLost         it was lost while something was under way
    ├── LoadFailed               a load test could not be run
    ├── OptimizerError           an optimizer could not propose or learn
    └── StorageError             the database, or what was asked of it
        ├── NotADatabase         the file is something else
        ├── SchemaMismatch       made by a newer windtunnel, or by another program
        ├── StorageUnavailable   locked, full, read-only or unreachable
        ├── ExperimentMismatch   the stored experiment has other objectives or tunables
        ├── MergeCycle           an experiment would learn from itself
        ├── NotFound             no such experiment, trial or configuration
        ├── NotLeading           another worker runs the optimizer
        ├── TrialAlreadyFinished a second, different outcome for one trial
        └── StaleTrial           the trial was taken over by another attempt

Messages say what was wanted, what was found, where, and what to do. They never hold a secret.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import Self

__all__ = [
    "CommandFailed",
    "ConfigError",
    "EnvironmentFailed",
    "ExperimentMismatch",
    "HostFailed",
    "HostKeyRefused",
    "HostLost",
    "HostUnreachable",
    "LoadFailed",
    "LoginRefused",
    "MergeCycle",
    "MissingService",
    "NotADatabase",
    "NotFound",
    "NotLeading",
    "OptimizerError",
    "ResultsInvalid",
    "SchemaMismatch",
    "StaleTrial",
    "StepTimedOut",
    "StorageError",
    "StorageUnavailable",
    "TrialAlreadyFinished",
    "TunableError",
    "WindtunnelError",
    "described",
    "ends_of_output",
]


class WindtunnelError(Exception):
    """The root of all errors of this package."""


class ConfigError(WindtunnelError):
    """The description of an experiment is wrong.

    :ivar message: what is wrong, without the place.
    :ivar path: keys and indices that lead to the wrong value, from the root of the description.
    :ivar source: the file it was read from, or None for a mapping built in code.
    :ivar line: 1-based line in that file, when it is known; likewise ``column``.
    :ivar others: further mistakes that were found at the same time.
    """

    others: tuple[ConfigError, ...] = ()

    def __init__(
        self,
        message: str,
        *,
        path: Sequence[str | int] = (),
        source: str | None = None,
        line: int | None = None,
        column: int | None = None,
    ) -> None:
        self.message = message
        self.path = tuple(path)
        self.source = source
        self.line = line
        self.column = column
        super().__init__(message)

    def __str__(self) -> str:
        file = "" if self.source is None else f"{self.source}:"
        line = "" if self.line is None or not file else f"{self.line}:"
        line += "" if self.column is None or not line else f"{self.column}:"
        place = ".".join(map(str, self._newest_key() if line else self.path))
        return " ".join(part for part in (f"{file}{line}", place and f"{place}:", self.message) if part)

    def _newest_key(self) -> tuple[str | int, ...]:
        """The end of the path from its last name on: enough beside a line. Empty if the message has it."""
        names = [i for i, step in enumerate(self.path) if isinstance(step, str)]
        end = self.path[names[-1] :] if names else ()
        return () if end and repr(end[0]) in self.message else end

    def within(self, *prefix: str | int) -> Self:
        """The same error, seen from further out: ``prefix`` leads to where its path began."""
        self.path = (*prefix, *self.path)
        for other in self.others:
            other.within(*prefix)
        return self

    @property
    def all(self) -> tuple[ConfigError, ...]:
        """This mistake and the others."""
        return (self, *self.others)

    @classmethod
    def of(cls, mistakes: Sequence[ConfigError]) -> ConfigError:
        """The first of them, of whatever class it is, with the rest as its ``others``."""
        first, *rest = (one for mistake in mistakes for one in mistake.all)
        first.others = tuple(rest)
        for one in rest:
            one.others = ()
        return first


class TunableError(ConfigError, ValueError):
    """A tunable is declared wrongly, is unknown, or is given a value outside its domain."""


class MissingService(ConfigError):
    """An environment asks for a service that was not given to it."""


class EnvironmentFailed(WindtunnelError):
    """A step of a trial did not succeed. The trial is recorded as failed with this message."""


def described(exc: BaseException) -> str:
    """An error nobody expected, with the place where it was raised; the first of a group."""
    while isinstance(exc, ExceptionGroup):
        exc = exc.exceptions[0]
    frames = traceback.extract_tb(exc.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(exc).__name__}: {exc}{where}"


def ends_of_output(stdout_tail: str, stderr_tail: str) -> str:
    """What a step printed last, to stand below a message; empty if it printed nothing."""
    ends = (("stderr", stderr_tail), ("stdout", stdout_tail))
    return "".join(f"\n--- end of {name} ---\n{tail.rstrip()}" for name, tail in ends if tail.strip())


class CommandFailed(EnvironmentFailed):
    """A script line ended with a status other than 0.

    :ivar step: ``setup``, ``run``, ``abort`` or ``teardown``.
    :ivar command: the line as it was written.
    :ivar exit_status: the status; negative for a signal.
    """

    def __init__(
        self,
        *,
        step: str,
        command: str,
        exit_status: int,
        stdout_tail: str = "",
        stderr_tail: str = "",
        hint: str = "",
    ) -> None:
        self.step = step
        self.command = command
        self.exit_status = exit_status
        self.stdout_tail = stdout_tail
        self.stderr_tail = stderr_tail
        ending = (
            f"was killed by signal {-exit_status}" if exit_status < 0 else f"ended with status {exit_status}"
        )
        message = f"{step} failed: {command!r} {ending}" + (f"; {hint}" if hint else "")
        super().__init__(message + ends_of_output(stdout_tail, stderr_tail))


class StepTimedOut(EnvironmentFailed):
    """A step of a trial used up its time and was stopped."""

    def __init__(self, *, step: str, seconds: float) -> None:
        self.step = step
        self.seconds = seconds
        super().__init__(
            f"{step} was stopped after its time limit of {seconds:g} s; "
            f"raise timeouts.{step} if it needs longer"
        )


class ResultsInvalid(EnvironmentFailed):
    """What a trial reported is missing, unreadable or not a finite number."""


class HostFailed(EnvironmentFailed):
    """A host failed, so the trial may succeed on another one.

    :ivar host: its name.
    :ivar reason: what is wrong, without the name.
    """

    def __init__(self, host: str, reason: str) -> None:
        self.host = host
        self.reason = reason
        super().__init__(f"host {host!r}: {reason}")


class HostUnreachable(HostFailed):
    """No connection to the host could be made, or nothing can be run on it.

    :ivar passing: whether trying again soon may help.
    """

    def __init__(self, host: str, reason: str, *, passing: bool = False) -> None:
        self.passing = passing
        super().__init__(host, reason)


class HostKeyRefused(HostFailed):
    """The host showed another key than the one known for it, or none is known.

    :ivar state: in a word: ``unknown``, ``changed`` or ``revoked``.
    """

    def __init__(self, host: str, reason: str, *, state: str = "changed") -> None:
        self.state = state
        super().__init__(host, reason)


class LoginRefused(HostFailed):
    """The host did not accept our keys or password, or they cannot be read."""


class HostLost(HostFailed):
    """The connection to the host was lost, and with it what was under way.

    :ivar doing: what was under way.
    """

    def __init__(self, host: str, *, doing: str, reason: str) -> None:
        self.doing = doing
        super().__init__(host, f"the connection was lost while {doing}: {reason}")


class LoadFailed(WindtunnelError):
    """A load test could not be run: its target cannot be reached, or no generator is left."""


class OptimizerError(WindtunnelError):
    """An optimizer could not propose a configuration or learn from an outcome."""


class StorageError(WindtunnelError):
    """Something is wrong with the database or with what was asked of it."""


class NotADatabase(StorageError):
    """The file exists and is not a database."""


class SchemaMismatch(StorageError):
    """The database was made by a newer windtunnel or holds another program's tables."""


class StorageUnavailable(StorageError):
    """The database is locked, full, read-only or cannot be reached."""


class ExperimentMismatch(StorageError):
    """The stored experiment has other objectives or tunables than the one being opened or merged."""


class MergeCycle(StorageError):
    """An experiment cannot be merged into itself, directly or through others."""


class NotFound(StorageError):
    """There is no such database, experiment, trial or configuration.

    :ivar known: what there is, for the message.
    """

    def __init__(self, what: str, wanted: object, known: Sequence[object] = (), *, hint: str = "") -> None:
        self.known = tuple(known)
        listing = f"; there are: {', '.join(map(str, self.known[:10]))}" if self.known else ""
        more = " …" if len(self.known) > 10 else ""
        super().__init__(f"there is no {what} {wanted!r}{listing}{more}" + (f"; {hint}" if hint else ""))


class NotLeading(StorageError):
    """Suggestions of a worker that does not hold the optimizer's lease any more are refused."""


class TrialAlreadyFinished(StorageError):
    """The trial has an outcome already, and it is another one."""


class StaleTrial(StorageError):
    """The trial's lease was lost: another attempt holds the trial now, so this one's word is refused."""
