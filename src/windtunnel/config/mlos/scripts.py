"""Script lines of a tree as lines that we run.

There, a line is split at its quotes and joined again without them before a shell gets it. Here the shell gets
it as it was written, apart from this: a command that is a file on the search path is replaced by that file,
Python's with an interpreter before it, and a line that would change the shell for the lines after it is run
in a shell of its own, as every line is there.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from windtunnel.config.mlos.search import SearchPath

__all__ = ["rewritten_lines"]

_TOKEN = re.compile(
    r"""(?P<space>(?:[^\S\n]|\\\n)+)
    |(?P<comment>\#[^\n]*)
    |(?P<redirection>[0-9]*(?:>>|<<|<&|>&|>\||<>|[<>]))
    |(?P<operator>&&|\|\||;;|[;&|()\n])
    |(?P<word>(?:[^\s;&|()<>'"\\]|\\.|'[^']*'|"(?:\\.|[^"\\])*")+)""",
    re.DOTALL | re.VERBOSE,
)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=", re.ASCII)
_BEFORE_COMMANDS = frozenset({"if", "then", "else", "elif", "while", "until", "do", "!", "{", "time"})
_FOR_THE_SHELL = frozenset(
    {".", "alias", "cd", "eval", "exec", "exit", "export", "popd", "pushd", "read", "readonly", "return"}
    | {"set", "shift", "source", "trap", "ulimit", "umask", "unalias", "unset"}
)
_PYTHON = '"$WINDTUNNEL_PYTHON" '


class _Command(NamedTuple):
    """The word in a line that names a command; an assignment that stands alone is one without a name."""

    start: int
    end: int
    name: str


def rewritten_lines(lines: Sequence[str], search: SearchPath, *, goes_on: bool = False) -> list[str]:
    """The lines of a local step.

    :param goes_on: a line that fails does not end the step, and the last one decides.
    """
    rewritten = [_rewritten(line, search) for line in lines]
    return [*(f"{{ {line}\n}} || :" for line in rewritten[:-1]), *rewritten[-1:]] if goes_on else rewritten


def _rewritten(line: str, search: SearchPath) -> str:
    commands = list(_commands(line))
    parts, end = [], 0
    for command in commands:
        found = _script(command.name, search)
        if found is not None:
            parts += [line[end : command.start], found]
            end = command.end
    changed = "".join((*parts, line[end:]))
    is_alone = any(not command.name or command.name in _FOR_THE_SHELL for command in commands)
    return _enclosed(changed) if is_alone else changed


def _enclosed(line: str) -> str:
    """The line in a shell of its own. What reaches to the end of a line must not swallow the bracket."""
    return f"({line}\n)" if re.search(r"#|<<|\\$", line) else f"({line})"


def _script(name: str, search: SearchPath) -> str | None:
    """The words that run a file of the search path; None if there is none of this name."""
    path = search.resolve(name)
    if path is None or not path.is_file():
        return None
    return (_PYTHON if path.suffix.lower() == ".py" else "") + quoted(path.absolute(), search.home)


def quoted(path: Path, directory: Path) -> str:
    """A path for the shell: relative to the folder of the description, if it is below it."""
    if path.is_relative_to(directory):
        return f'"$config_dir"/{shlex.quote(str(path.relative_to(directory)))}'
    return shlex.quote(str(path))


def _commands(line: str) -> Iterator[_Command]:
    """Where a shell would look for a command; it ends where the line cannot be understood."""
    is_next, is_target, alone = True, False, False
    position = 0
    while match := _TOKEN.match(line, position):
        position = match.end()
        kind, text = match.lastgroup, match[0]
        if kind == "redirection":
            is_target = True
        elif kind == "operator":
            if alone:
                yield _Command(match.start(), match.start(), "")
            is_next, alone = text != ")", False
        elif kind == "word" and is_target:
            is_target = False
        elif kind == "word" and is_next and _ASSIGNMENT.match(text):
            alone = True
        elif kind == "word" and is_next:
            is_next, alone = text in _BEFORE_COMMANDS, False
            if not is_next:
                yield _Command(match.start(), match.end(), _unquoted(text))
    if alone:
        yield _Command(len(line), len(line), "")


def _unquoted(word: str) -> str:
    try:
        return "".join(shlex.split(word))
    except ValueError:
        return word
