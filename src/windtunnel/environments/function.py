"""A Python callable as a system under test."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import Any

import anyio
from anyio import from_thread, to_thread
from pydantic import ConfigDict, Field

from windtunnel.environments.base import CommonOptions, Environment
from windtunnel.environments.registry import imported
from windtunnel.errors import ConfigError, EnvironmentFailed, ResultsInvalid, described
from windtunnel.model import RunResult, Sample, Status, utc_now
from windtunnel.options import shown

__all__ = ["FunctionEnv", "FunctionOptions"]

Emit = Callable[..., Coroutine[Any, Any, None]]

_PLAIN = frozenset({int, float, str, bool})
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class FunctionOptions(CommonOptions):
    """The ``config`` of a FunctionEnv."""

    model_config = ConfigDict(extra="forbid")

    function: str | None = Field(default=None, description="package.module:callable; for use in files")


class FunctionEnv(Environment):
    """Calls a function for each run: ``function(params)`` or ``function(params, emit)``.

    ``params`` holds the tunables and ``const_args``. The function returns a mapping of metrics, or None for
    no metrics. ``emit(metric, value, timestamp=None)`` records telemetry and waits while the recorder is
    full.

    An async function awaits ``emit``. Any other runs in a worker thread, where ``emit`` is a plain call. A
    thread cannot be stopped: when the trial is cancelled it is left to itself, and its next ``emit`` raises.

    :param function: default the one named in ``config``.
    """

    options_class = FunctionOptions
    options: FunctionOptions

    def __init__(self, *, function: Callable[..., Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._function = function or self._named_function()
        self._takes_emit = _takes_emit(self._function)
        self._is_async = _is_async(self._function)

    async def _run(self) -> RunResult:
        params = dict(self._params)
        emit: Emit = self._sink.emit if self._sink is not None else self._keep
        try:
            if not self._is_async:
                returned = await self._in_thread(params, emit)
            elif self._takes_emit:
                returned = await self._function(params, emit)
            else:
                returned = await self._function(params)
        except EnvironmentFailed:
            raise
        except (Exception, SystemExit) as exc:  # a benchmark that exits is over, we are not
            raise EnvironmentFailed(f"run failed: {described(exc)}") from exc
        return RunResult(Status.SUCCEEDED, utc_now(), _metrics(returned))

    async def _in_thread(self, params: dict[str, Any], emit: Emit) -> Any:
        ended = False

        def plain_emit(metric: str, value: float | str, timestamp: datetime | None = None) -> None:
            if ended:
                raise RuntimeError("the trial has ended; nothing more can be emitted for it")
            from_thread.run(emit, metric, value, timestamp)

        arguments = (params, plain_emit) if self._takes_emit else (params,)
        try:
            returned = await to_thread.run_sync(
                self._function, *arguments, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(math.inf)
            )
        finally:
            ended = True
        return await returned if inspect.isawaitable(returned) else returned

    async def _keep(self, metric: str, value: float | str, timestamp: datetime | None = None) -> None:
        self._buffer.append(Sample(timestamp or utc_now(), metric, value))

    def _named_function(self) -> Callable[..., Any]:
        path = self.options.function
        if path is None:
            raise ConfigError(
                "no function was given; expected package.module:callable", path=("config", "function")
            )
        if "." not in path.replace(":", "."):
            raise ConfigError(
                f"expected package.module:callable, found {path!r}", path=("config", "function")
            )
        try:
            function = imported(path.replace(":", "."))
        except ConfigError as exc:
            raise ConfigError(exc.message, path=("config", "function")) from exc.__cause__
        if not callable(function):
            raise ConfigError(
                f"{path!r} is not callable, it is {shown(function)}", path=("config", "function")
            )
        return function


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object's own method may be async
    )


def _takes_emit(function: Callable[..., Any]) -> bool:
    """Whether it takes a second argument.

    :raises ConfigError: if it takes none at all, or is no function.
    """
    if not callable(function):
        raise ConfigError(f"expected a function, found {shown(function)}")
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some builtins do not tell
        return False
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        return True
    positional = [p for p in parameters if p.kind in _POSITIONAL]
    if not positional:
        raise ConfigError(
            f"{function!r} must take the parameters as its first argument: f(params) or f(params, emit)"
        )
    # A second one with a default belongs to the user, unless its name says otherwise.
    return len(positional) > 1 and (
        positional[1].default is inspect.Parameter.empty or positional[1].name == "emit"
    )


def _metrics(returned: object) -> dict[str, Any]:
    """The metrics a function returned.

    :raises ResultsInvalid: if they are none.
    """
    if returned is None:
        return {}
    if not isinstance(returned, Mapping):
        raise ResultsInvalid(
            f'the function returned {shown(returned)}; expected a mapping like {{"metric": value}}, or None'
        )
    metrics = dict(returned)
    for name, value in metrics.items():
        if type(value) not in _PLAIN or type(name) is not str:
            metrics[name] = _plain(name, value)
    return metrics


def _plain(name: object, value: object) -> float | int | str:
    """``value`` as a builtin type; numpy's scalars and the like come here."""
    if isinstance(name, str):
        if isinstance(value, numbers.Integral):
            return int(value)
        if isinstance(value, numbers.Real):
            return float(value)
        if isinstance(value, str):
            return str(value)
    raise ResultsInvalid(
        f"the function returned {shown(name)}: {shown(value)} among its metrics; "
        "expected a text as the name and a number or a text as the value"
    )
