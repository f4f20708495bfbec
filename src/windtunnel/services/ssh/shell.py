"""The remote side: programs for a POSIX shell, and nothing to install.

All go to the shell's standard input, so that no limit on command lines applies, that no value shows in a
process list, and that the login shell has only ``exec /bin/sh -s`` to understand. Each is one compound
command: a shell that gets half of it runs nothing.

A *script* is a shell of its own, and the leader of a process group. It is started by a *runner*, the shell of
a channel, which waits for it and is then ready for the next: most of what a script costs a host is its
channel. What a script prints ends with a line of the runner on each stream, so that nothing which others
write later is taken for it. A runner is used again if no process that the script has left can write there.

The *keeper* is one shell for the whole connection. It makes and removes the directories of sessions, signals
the groups of scripts when it is told to, and kills them all when its input ends: that is when we are gone,
however suddenly. Below its own directory there is one for each session ``N``::

    x           scripts must not start any more
    N/work      the session's directory, where its scripts run
    N/pK        script K: its process group as it begins the first line, then an empty line as it begins each
                other one, then "ended": what is left of its group then are background processes; empty if
                there are none
    N/xK        script K must not begin

A process that left its group is found by a variable in its environment, where the host has /proc.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from shlex import quote

__all__ = ["MARK", "READY", "keeper", "runner", "script"]

MARK = "WINDTUNNEL_SESSION"
READY = 8
"""How many sessions are made at once."""

# It says nothing itself where scripts are heard. Whether a process that a script has started holds one of the
# streams is known if few were started meanwhile, on the whole host: the numbers between are looked at.
_RUNNER = """\
{{
{groups}
exec 9>&2 2>/dev/null
over() {{
    begun=0 group= how=killed state=left
    if [ -s "$2" ]; then
        while read -r line; do
            case $line in
            ended) how=ended ;;
            *) begun=$((begun + 1)) group=${{group:-$line}} ;;
            esac
        done <"$2"
    fi
    if [ $how = killed ] && [ -n "$group" ]; then echo ended >>"$2"; fi
    if [ -z "$group" ]; then
        state=clean
    elif ! kill -0 "-$group"; then
        true >"$2"
        if read -r _ _ _ _ newest </proc/loadavg && ! held; then state=clean; fi
    fi
    echo "{token} $1 $begun $how $state"
    echo "{token}" >&9
}}
held() {{
    [ "$newest" -ge "$group" ] && [ $((newest - group)) -le {most} ] || return 0
    while [ "$group" -lt "$newest" ]; do
        group=$((group + 1))
        [ -e "/proc/$group" ] || continue
        for stream in "/proc/$group/fd/1" "/proc/$group/fd/2"; do
            if [ "$stream" -ef /proc/$$/fd/1 ] || [ "$stream" -ef /proc/$$/fd/9 ]; then return 0; fi
        done
    done
    return 1
}}
echo "{token}"
echo "{token}" >&9
}}
"""
_MOST_LOOKED_AT = 1000
_SCRIPT = """\
{{
{leader}{shell} -s <<'{token}' 2>&9 9>&-
{{
exec </dev/null
{exports}
cd {cwd} || exit 125
echo $$ >{file} && kill -0 -$$ || exit 125
if [ -e {files}/x{number} ] || [ -e {base}/x ]; then exit 143; fi
trap {ended} EXIT
{lines}
exit 0
}}
{token}
over $? {file}
}}
"""
_LINE = """\
eval {line}
case $? in 0) ;; *) exit $? ;; esac
"""
_NEXT = "echo >>{file}\n"

# dash has no shorter way to say it: a signal's name and a negative number, and no "--" before it.
# Whatever has lost its parent becomes a child of one of the server's ancestors, or is below one that did.
_KEEPER = """\
{{
umask 077
orphans() {{
    now= new= above=$PPID
    [ -n "$ancestors" ] || while [ "$above" != 1 ]; do
        read -r _ _ _ above _ <"/proc/$above/stat" || above=
        case $above in '' | *[!0-9]*) ancestors=; return 1 ;; 0) above=1 ;; esac
        ancestors="$ancestors $above"
    done
    for above in $ancestors; do
        file=/proc/$above/task/$above/children
        [ -r "$file" ] || return 1
        IFS= read -r some <"$file"
        now=$now$some
    done
    case $now in
    "$known"*) new=${{now#"$known"}} ;;
    *) for pid in $now; do case " $known" in *" $pid "*) ;; *) new="$new $pid" ;; esac; done ;;
    esac
}} 2>/dev/null
trap '' HUP INT QUIT PIPE TERM ALRM USR1 USR2
look() {{
    group= last=
    while read -r line; do last=$line group=${{group:-$line}}; done <"$1"
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
strayed() {{
    orphans || return 0
    place=$1
    set --
    for pid in $new; do set -- "$@" "/proc/$pid/environ"; done
    if [ $# -gt 0 ] && grep -qsF -- "{mark}=$place/" "$@"; then return 0; fi
    known=$now
    return 1
}}
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
    remove "$1"
}}
remove() {{ rm -rf -- "$1" || rm -rf -- "$1"; }}
finish() {{
    true >"$1/x"
    set -- "$1" "$1"/*/p*
    if [ ! -e "$2" ]; then  # nothing has run in what is left
        remove "$1"
        return
    fi
    tell KILL "$1"/*/p*
    if [ $left = left ]; then
        # A shell that was just ending may have left background processes.
        nap
        tell KILL "$1"/*/p*
        clear "$1"
    elif strayed "$1"; then
        clear "$1"
    else
        remove "$1"
    fi
}}
make() {{
    last=$(($1 + {ready}))
    session=$1
    shift
    while [ "$session" -lt "$last" ]; do
        set -- "$@" "$base/$session" "$base/$session/work"
        session=$((session + 1))
    done
    mkdir "$@"
}}
known= ancestors=
cd /
tmp={tmp}
for base in "$tmp"/windtunnel-{owner}-*; do
    if [ -d "$base" ] && [ -O "$base" ]; then finish "$base" </dev/null; fi
done
base=$tmp/windtunnel-{owner}-{serial}
make 1 "$base" || exit 1
kill -0 -$$ 2>/dev/null && leads=yes || leads=no
# Some shells can do without it: those that make groups also where there is no terminal.
command -v setsid >/dev/null 2>&1 && leader=setsid || leader=none
echo "{owner}-{serial} $leads $leader $base"
while read -r id verb session script; do
    files=$base/$session
    case $verb in
    open) if why=$(make "$session" -p 2>&1); then echo "$id ok"; else echo "$id no $why"; fi ;;
    term) true >"$files/x$script"; tell TERM "$files/p$script"; echo "$id $left" ;;
    poll) tell 0 "$files"/p${{script:-*}}; echo "$id $left" ;;
    kill) tell KILL "$files/p$script"; echo "$id gone" ;;
    end)
        tell TERM "$files"/p*
        if [ $left = left ]; then
            echo "$id left"
        elif strayed "$base"; then
            (clear "$files"; echo "$id gone") &
        else
            (remove "$files"; echo "$id gone") &
        fi
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


def runner(token: str, *, leads: bool) -> bytes:
    """The program that a runner begins with.

    :param token: what its own lines on the two streams begin with; a word that nobody else writes.
    :param leads: whether it makes process groups itself.
    """
    groups = "set -m" if leads else ":"
    return _encoded(_RUNNER.format(token=token, groups=groups, most=_MOST_LOOKED_AT))


def script(
    lines: Sequence[str],
    *,
    env: Mapping[str, str],
    base: str,
    session: int,
    number: int,
    cwd: str,
    shell: str,
    leader: str,
    token: str,
) -> bytes:
    """What a runner gets for one script.

    :param base: the keeper's directory.
    :param leader: what makes a program the leader of a process group, with a space; empty if the runner does.
    :param token: the runner's.
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
        shell=quote(shell),
        leader=leader,
        token=token,
    )
    return _encoded(text)


def keeper(*, owner: str, serial: int, temp_dir: str | None) -> bytes:
    """The program that keeps a connection's sessions. The first ``READY`` are there when it is ready.

    :param owner: letters and digits that are this process's and this host's own. What an earlier connection
        of the same owner has left is ended and removed first.
    :param temp_dir: where its directory is made; default the host's ``$TMPDIR`` or ``/tmp``.
    """
    tmp = '"${TMPDIR:-/tmp}"' if temp_dir is None else quote(_operand(temp_dir))
    return _encoded(_KEEPER.format(owner=owner, serial=serial, tmp=tmp, mark=MARK, ready=READY))


def _operand(path: str) -> str:
    """A path that no program takes for an option."""
    return path if path.startswith("/") else f"./{path}"


def _encoded(text: str) -> bytes:
    if "\0" in text:
        raise ValueError("a script and its variables cannot hold a NUL character")
    return text.encode("utf-8", "surrogateescape")
