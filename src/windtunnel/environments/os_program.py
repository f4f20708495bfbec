"""The program that changes the settings of an operating system, and changes them back.

It runs in a POSIX shell on the host. What it needs to remember is in a directory there, below ``os``, so that
it outlives the trial, the program that ran the trial, and a boot::

    owner          who may change settings: a token, the process that must live, when that began, whose it is
    entries/N/     one setting that may have been changed: its name, value (what it was), and two commands,
                   read (which prints the value) and undo (which changes it back)
    running        the newest program of this kind and when it began: sudo's outlive a cancelled script
    booting        the host is about to be booted: the boot id now, and a digest of the settings it boots with
    booted         likewise, the boot id it has now and the digest of what it was booted with

All entries are written before the first setting is changed. Entries whose owner does not live any more are
what a trial left that could not end: they are undone before anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote
from typing import NamedTuple

__all__ = ["GUARD", "REBOOT", "Setting", "command"]

REBOOT = "reboot"
"""The last line that ``apply`` prints if the host has to be booted."""

GUARD = "sleep 2147483647 </dev/null >/dev/null 2>&1 & guard=$!"
"""A line that starts the process by which others see that we live; it ends with the session."""


class Setting(NamedTuple):
    """One setting and the value it gets. The commands are shell code.

    :ivar name: for messages.
    :ivar read: prints what it is.
    :ivar write: makes it ``$value``.
    :ivar undo: makes it what it was, which is in ``$saved/value``.
    :ivar is_booted: it takes effect when the host boots.
    """

    name: str
    read: str
    write: str
    undo: str
    value: str
    is_booted: bool = False


_PROGRAM = r"""
verb=$1 state=$2 me=$3 whose=$4 guard=$5 digest=$6 patience=$7
shift 7
fail() { printf '%s\n' "$1" >&2; exit 1; }
if [ -z "$state" ]; then
    if [ "$(id -u)" = 0 ]; then state=/var/lib; else state=${XDG_STATE_HOME:-$HOME/.local/state}; fi
    state=$state/windtunnel
fi
here=$state/os
(umask 077 && mkdir -p "$here/entries") && cd "$here" || fail "cannot use $here"
now=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)

born() { # when the process began; nothing if it has ended
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 0
    set -f
    set -- ${stat##*) }
    case $1 in Z | X) ;; *) echo "${20}" ;; esac
}
is_running() {
    [ -s running ] && read -r pid since <running && [ -n "$since" ] && [ "$(born "$pid")" = "$since" ]
}
is_held() {
    [ -s owner ] && read -r who pid since other <owner && [ "$who" != "$me" ] &&
        [ -n "$since" ] && [ "$(born "$pid")" = "$since" ]
}
nap() { # as long as there is patience
    [ "$patience" -gt 0 ] || fail "$1"
    patience=$((patience - 1))
    sleep 0.1 2>/dev/null || sleep 1
}
claim() {
    while is_held; do nap "they are changed already, for $other; give the host one slot"; done
    printf '%s\n' "$me $guard $(born "$guard") $whose" >"owner.$me" && mv "owner.$me" owner ||
        fail "cannot write to $here"
    read -r who pid since other <owner
    [ "$who" = "$me" ] || fail "they are being changed already, for $other; give the host one slot"
}
look() { # what it is now, as an entry
    rm -rf seen && mkdir seen || return
    saved=$here/seen
    (eval "$1") >seen/value
}
is_same() { # two entries
    [ "$(cat "$1/value" && echo x)" = "$(cat "$2/value" && echo x)" ] &&
        { if [ -e "$1/absent" ]; then [ -e "$2/absent" ]; else [ ! -e "$2/absent" ]; fi; }
}
undo() { # in reverse; what one changes, another may have changed too, so each is looked at
    left=
    for entry in $(ls -r entries); do
        entry=entries/$entry
        look "$(cat "$entry/read")" 2>/dev/null && is_same seen "$entry" && continue
        saved=$here/$entry
        (eval "$(cat "$entry/undo")")
    done
    for entry in $(ls entries); do
        entry=entries/$entry
        if look "$(cat "$entry/read")" && is_same seen "$entry"; then
            rm -rf "$entry"
        else
            left="$left, $(cat "$entry/name")"
        fi
    done
    rm -rf seen
    [ -z "$left" ] || fail "not as before: ${left#, }; what it was is in $here/entries"
}
save() { # number name booted read write undo value
    look "$4" || fail "cannot read $2"
    if [ -n "$3" ] && ! [ "$(cat seen/value)" = "$7" ]; then changed=yes; fi
    printf '%s' "$2" >seen/name && printf '%s' "$4" >seen/read && printf '%s' "$6" >seen/undo &&
        mv seen "entries/$1" || fail "cannot write to $here"
}
change() {
    if [ -e "entries/$1" ] && ! [ -e "entries/$1/absent" ] && [ "$(cat "entries/$1/value")" = "$7" ]; then
        return
    fi
    write "$@"
}
write() {
    (value=$7; export value; eval "$5") || fail "cannot set $2 to '$7'"
}
rewrite() { if [ -z "$3" ]; then write "$@"; fi; }
each() { # verb, and then the settings
    action=$1 number=1000
    shift
    while [ $# -gt 0 ]; do
        number=$((number + 1))
        "$action" "$number" "$1" "$2" "$3" "$4" "$5" "$6"
        shift 6
    done
}
has_booted() { # with these settings
    if [ -s booting ] && read -r id with <booting && [ "$id" != "$now" ]; then echo "$now $with" >booted; fi
    rm -f booting
    if [ -s booted ] && read -r id with <booted && [ "$id" = "$now" ]; then
        [ "$with" = "$digest" ]
    else
        [ -z "$changed" ]
    fi
}
chosen() { # the word in brackets if there is one, as some files below /sys have it
    content=$(cat -- "$1") || return
    case $content in
        *"["*"]"*) content=${content#*"["}; printf '%s\n' "${content%%"]"*}" ;;
        *) printf '%s\n' "$content" ;;
    esac
}
mounted() {
    place=$1 awk '
        $2 == ENVIRON["place"] { found = $4 }
        END { if (!found) exit 1; print found }
    ' /proc/self/mounts
}

while is_running; do nap "process $pid, which a trial left, is still at work on them"; done
echo "$$ $(born $$)" >running || fail "cannot write to $here"
case $verb in
    apply)
        claim
        undo
        changed=
        each save "$@"
        each change "$@"
        if [ -n "$digest" ] && ! has_booted; then
            echo "$now $digest" >booting
            sync
            echo reboot
        fi
        ;;
    resume)
        claim
        rm -f booting
        echo "$now $digest" >booted
        each rewrite "$@"
        ;;
    restore)
        # If somebody else has them now, ours were undone before that, or never changed.
        is_held && exit 0
        undo
        rm -f owner
        ;;
esac
exit 0
"""


def command(
    verb: str,
    settings: Sequence[Setting],
    *,
    state_dir: str | None,
    token: str,
    whose: str,
    digest: str,
    patience_s: float,
    is_sudo: bool,
) -> str:
    """A line for a shell in which ``GUARD`` has run.

    :param verb: ``apply``, ``resume`` after the host was booted, or ``restore``.
    :param token: of the set-up, the same in all its commands.
    :param whose: what others are told who find the settings changed.
    :param digest: of the settings with which the host must have been booted; empty if there are none.
    :param patience_s: how long to wait for another owner to end.
    """
    words = [verb, state_dir or "", token, whose]
    more = [digest, str(round(patience_s * 10))]
    for one in settings:
        more += [one.name, "yes" if one.is_booted else "", one.read, one.write, one.undo, one.value]
    sudo = "sudo -n -- " if is_sudo else ""
    given = [*map(quote, words), '"$guard"', *map(quote, more)]
    return f"{sudo}/bin/sh -c {quote(_PROGRAM)} windtunnel {' '.join(given)}"
