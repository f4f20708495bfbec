"""A timer for the event loop that is right to some microseconds; loops count in milliseconds."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable

__all__ = ["Alarm"]

_CLOCK_MONOTONIC = 1
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_ABSOLUTE = 1


class _TimerSpec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class Alarm:
    """Calls back in the running loop once a time of ``time.monotonic_ns`` has come.

    By Linux's timerfd, and by the loop's own timers where there is none. The call may be early in the latter
    case: whoever is called looks at the clock, and sets the alarm again.
    """

    def __init__(self, callback: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        self._fd = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._fd >= 0:
            self._spec = _TimerSpec()
            self._at = ctypes.byref(self._spec)
            self._set_time = self._libc.timerfd_settime
            self._loop.add_reader(self._fd, callback)

    def set(self, at_ns: int) -> None:
        """Call back at this time, at once if it has passed, instead of at any time set before.

        :param at_ns: 0 for never.
        """
        if self._fd >= 0:
            # To set the timer anew also takes back that it has gone off, so nobody has to read from it.
            self._spec.value_s, self._spec.value_ns = divmod(at_ns, 1_000_000_000)
            self._set_time(self._fd, _ABSOLUTE, self._at, None)
            return
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if at_ns:
            self._handle = self._loop.call_at(at_ns / 1e9, self._callback)

    def close(self) -> None:
        """Never call back again."""
        self.set(0)
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
