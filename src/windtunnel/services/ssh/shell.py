"""The remote side: two programs for a POSIX shell, and nothing to install.

Both go to the shell's standard input, so that no limit on command lines applies, that no value shows in a
process list, and that the login shell has only ``exec /bin/sh -s`` to understand. Each is one compound
command: a shell that gets half of it runs nothing.

A *script* is the shell of one channel, and the leader of a process group, which sshd makes for every channel.
The *keeper* is one shell for the whole connection. It makes and removes the directories of sessions, signals
the groups of scripts when it is told to, and kills them all when its input ends: that is when we are gone,
however suddenly. Below its own directory there is one for each session ``N``::

    x           scripts must not start any more
    N/work      the session's directory, where its scripts run
    N/pK        script K: its process group as it begins the first line, then an empty line as it begins each
                other one, then "ended": what is left of its group then are background processes
    N/xK        script K must not begin

A process that left its group is found by a variable in its environment, where the host has /proc.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from shlex import quote

__all__ = ["MARK", "keeper", "script"]

MARK = "WINDTUNNEL_SESSION"

_SCRIPT = """\
{{
exec </dev/null
{exports}
cd {cwd} || exit 125
echo $$ >{file} || exit 125
if [ -e {files}/x{number} ] || [ -e {base}/x ]; then exit 143; fi
trap {ended} EXIT
{lines}
exit 0
}}
"""
_LINE = """\
eval {line}
case $? in 0) ;; *) exit $? ;; esac
"""
_NEXT = "echo >>{file}\n"

# dash has no shorter way to say it: a signal's name and a negative number, and no "--" before it.
_KEEPER = """\
{{
umask 077
trap '' HUP INT QUIT PIPE TERM ALRM USR1 USR2
look() {{
    group= last= begun=0
    while read -r line; do
        last=$line
        [ "$line" = ended ] || begun=$((begun + 1))
        group=${{group:-$line}}
    done <"$1"
}}
tell() {{
    signal=$1 left=gone
    shift
    for file do
        [ -s "$file" ] || continue
        look "$file"
        case $group in '' | 0 | 1 | *[!0-9]*) continue ;; esac
        # The shell has ended: a process of this number is a stranger's, and so is its group.
        [ "$last" = ended ] && kill -0 "$group" 2>/dev/null && continue
        kill "-$signal" "-$group" 2>/dev/null || continue
        if [ "$signal" != 0 ] || lives "$group"; then left=left; fi
    done
}}
# A container's first process may be slow to reap what has ended.
lives() {{ [ ! -e /proc/self/stat ] || grep -qsE "\\) [^ZX] [0-9]+ $1 " /proc/[0-9]*/stat; }}
nap() {{ sleep 0.1 2>/dev/null || sleep 1; }}
strays() {{
    for file in $(grep -lsF -- "{mark}=$2" /proc/[0-9]*/environ 2>/dev/null); do
        file=${{file#/proc/}}
        kill "-$1" "${{file%/environ}}" 2>/dev/null && left=left
    done
}}
clear() {{
    left=gone turn=0
    strays TERM "$1/"
    while [ $left = left ] && [ $turn -lt 5 ]; do
        nap
        left=gone turn=$((turn + 1))
        strays 0 "$1/"
    done
    [ $left = gone ] || strays KILL "$1/"
    rm -rf -- "$1" || rm -rf -- "$1"
}}
finish() {{
    : >"$1/x"
    set -- "$1" "$1"/*/p*
    if [ -e "$2" ]; then
        tell KILL "$@"
        # A shell that was just ending may have left background processes.
        nap
        tell KILL "$1"/*/p*
    fi
    clear "$1"
}}
cd /
tmp={tmp}
for base in "$tmp"/windtunnel-{owner}-*; do
    if [ -d "$base" ] && [ -O "$base" ]; then finish "$base" </dev/null; fi
done
base=$tmp/windtunnel-{owner}-{serial}
mkdir "$base" "$base/1" "$base/1/work" || exit 1
kill -0 -$$ 2>/dev/null && groups=yes || groups=no
echo "{owner}-{serial} $groups $base"
while read -r id verb session script; do
    files=$base/$session
    case $verb in
    open) if why=$(mkdir "$files" "$files/work" 2>&1); then echo "$id ok"; else echo "$id no $why"; fi ;;
    line)
        begun=none
        if [ -s "$files/p$script" ]; then look "$files/p$script"; fi
        echo "$id $begun"
        ;;
    term) : >"$files/x$script"; tell TERM "$files/p$script"; echo "$id $left" ;;
    poll) tell 0 "$files"/p${{script:-*}}; echo "$id $left" ;;
    kill) tell KILL "$files/p$script"; echo "$id gone" ;;
    end)
        tell TERM "$files"/p*
        if [ $left = left ]; then echo "$id left"; else (clear "$files"; echo "$id gone") & fi
        ;;
    drop) tell KILL "$files"/p*; (clear "$files"; echo "$id gone") & ;;
    *) echo "$id ok" ;;
    esac
done
finish "$base"
exit 0
}}
"""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def script(
    lines: Sequence[str], *, env: Mapping[str, str], base: str, session: int, number: int, cwd: str
) -> bytes:
    """The program for one script.

    :param base: the keeper's directory.
    :raises ValueError: for a NUL character, or a name that no variable can have.
    """
    for name in env:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name for an environment variable")
    files = f"{base}/{session}"
    file = f"{files}/p{number}"
    exported = {**env, MARK: f"{files}/"}
    text = _SCRIPT.format(
        files=quote(files),
        file=quote(file),
        base=quote(base),
        number=number,
        ended=quote(f"echo ended >>{quote(file)}"),
        cwd=quote(_operand(cwd)),
        exports="\n".join(f"export {name}={quote(value)}" for name, value in exported.items()),
        lines=_NEXT.format(file=quote(file)).join(_LINE.format(line=quote(line)) for line in lines),
    )
    return _encoded(text)


def keeper(*, owner: str, serial: int, temp_dir: str | None) -> bytes:
    """The program that keeps a connection's sessions. Session 1 is open when it is ready.

    :param owner: letters and digits that are this process's and this host's own. What an earlier connection
        of the same owner has left is ended and removed first.
    :param temp_dir: where its directory is made; default the host's ``$TMPDIR`` or ``/tmp``.
    """
    tmp = '"${TMPDIR:-/tmp}"' if temp_dir is None else quote(_operand(temp_dir))
    return _encoded(_KEEPER.format(owner=owner, serial=serial, tmp=tmp, mark=MARK))


def _operand(path: str) -> str:
    """A path that no program takes for an option."""
    return path if path.startswith("/") else f"./{path}"


def _encoded(text: str) -> bytes:
    if "\0" in text:
        raise ValueError("a script and its variables cannot hold a NUL character")
    return text.encode("utf-8", "surrogateescape")
