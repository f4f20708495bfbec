"""How this program is called."""

from __future__ import annotations

import os
import shlex
import shutil
import sys

__all__ = ["program"]

_NAME = "windtunnel"


def program() -> str:
    """What to type to call it again: with its path, unless the shell finds it by its name."""
    called = sys.argv[0]
    if os.path.basename(called) != _NAME:  # python -m windtunnel
        return _NAME
    found = shutil.which(_NAME)
    is_found = found is not None and os.path.realpath(found) == os.path.realpath(called)
    return _NAME if is_found else shlex.quote(called)
