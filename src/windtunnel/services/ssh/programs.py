"""What runs on a host while files are transferred; see ``pipes`` for what all these begin with.

A file or directory that is not complete yet stands beside its target as ``.windtunnel-ID-HOST-PID``: ID is
made of the target's name, PID is a process that lives as long as somebody works on it. What is left of a dead
one is removed by the next upload to the same target, or continued if it is a file.
"""

from __future__ import annotations

__all__ = ["CHECKSUMS", "COMMIT", "DOWNLOAD", "EXTRACT", "MODES", "REMOVE", "UPLOAD"]

# A word and not a function of the shell: that would cost one process more each time.
_SUM = """\
none() { if [ $# = 0 ]; then echo none; else for file do echo none; done; fi; }
if command -v sha256sum >/dev/null 2>&1; then sum=sha256sum
elif command -v shasum >/dev/null 2>&1; then sum='shasum -a 256'
elif command -v openssl >/dev/null 2>&1; then sum='openssl dgst -sha256 -r'
else sum=none
fi
"""

_LEFT = """\
left() {
    [ -O "$1" ] && [ ! -L "$1" ] || return
    pid=${1##*-}
    pid=${pid%%.*}
    # One that was not reaped yet has ended too.
    ! kill -0 "$pid" 2>/dev/null || grep -qs ') [ZX] ' "/proc/$pid/stat"
}
"""

UPLOAD = (
    _SUM
    + _LEFT
    + """\
part=
undo() { if [ -n "$part" ]; then rm -f -- "$part"; fi; }
[ ! -d "$target" ] || fail 'it is a directory'
if [ -e "$target" ]; then [ -f "$target" ] || fail 'it is no file, and not replaced by one'; fi
[ -d "$dir" ] || mkdir -p -- "$dir" || exit 3
if [ -f "$target" ] && [ ! -L "$target" ] && [ $(($(wc -c <"$target"))) = "$size" ]; then
    have=$($sum <"$target")
    if [ "${have%% *}" = "$want" ]; then
        chmod "$mode" "$target" || exit 3
        echo same
        exit 0
    fi
fi
umask "$umask"
part=$dir/.windtunnel-$id-$node-$$
have=0
for old in "$dir/.windtunnel-$id-$node"-*; do
    if [ -f "$old" ] && left "$old"; then
        if [ $have = 0 ] && mv -f -- "$old" "$part"; then
            have=$(($(wc -c <"$part")))
            chmod=yes
            chmod u+rw "$part"
        else
            rm -rf -- "$old"
        fi
    fi
done
true >>"$part" || { part=; exit 3; }
if [ $have -gt 0 ]; then
    found=$($sum <"$part")
    echo "part $have ${found%% *}"
    read -r answer || exit 4
    if [ "$answer" != keep ]; then : >"$part"; fi
else
    echo send
fi
cat >>"$part" || exit 3
have=$($sum <"$part")
have=${have%% *}
if [ "$have" != "$want" ]; then
    size_now=$(($(wc -c <"$part")))
    if [ "$size_now" -lt "$size" ]; then
        # We are gone. The next attempt goes on from here.
        [ "$size_now" -lt "$keep" ] || part=
        exit 4
    fi
    [ "$have" = none ] || fail 'what arrived is not what was sent'
    name=.windtunnel-$id-$node-$PPID.$$
    printf 'back %s\n' "$name"
    cat -- "$part" || exit 3
    mv -f -- "$part" "$dir/$name" || exit 3
    part=
    exit 0
fi
if [ -n "$chmod" ]; then chmod "$mode" "$part" || exit 3; fi
mv -f -- "$part" "$target" || exit 3
part=
"""
)
"""Takes a file: ``same``, or ``send`` or ``part SIZE CHECKSUM`` and then it reads the file or its rest.

Without a program for checksums it gives the file ``back``, and leaves it to be committed.
"""

DOWNLOAD = (
    _SUM
    + """\
[ -e "$target" ] || fail 'there is no such file'
if [ -d "$target" ]; then
    cd "$target" || exit 3
    echo directory
    read -r answer || exit 4
    [ "$answer" = tree ] || exit 0
    tar -cf - . || exit 3
    exit 0
fi
[ -f "$target" ] || fail 'it is neither a file nor a directory'
[ -r "$target" ] || fail 'Permission denied'
set -f
set -- $(ls -ldnL -- "$target")
echo "file $1 $5"
while read -r what count; do
    case $what in
    sum) $sum <"$target" ;;
    part) head -c "$count" <"$target" | $sum ;;
    send)
        if [ "$count" = 0 ]; then cat -- "$target"; else tail -c "+$((count + 1))" -- "$target"; fi || exit 3
        $sum <"$target"
        exit 0
        ;;
    esac
done
"""
)
"""Gives a file (its mode, its size, and what is asked for), or a directory as a tape archive."""

CHECKSUMS = (
    _SUM
    + """\
if [ ! -d "$target" ]; then echo absent; exit 0; fi
cd "$target" || exit 3
echo ready
set --
flags=
flush() {
    echo "$flags"
    [ $# = 0 ] || $sum "$@" || exit 3
    flags=
}
while IFS= read -r name; do
    case $name in
    *\\\\*)
        flush "$@"
        set --
        name=$(printf '%b.' "$name")
        name=./${name%.}
        if [ -f "$name" ] && [ ! -L "$name" ]; then echo +; $sum <"$name" || exit 3; else echo -; fi
        continue
        ;;
    esac
    name=./$name
    if [ -f "$name" ] && [ ! -L "$name" ]; then flags=$flags+; set -- "$@" "$name"; else flags=$flags-; fi
    if [ ${#flags} -ge 100 ]; then flush "$@"; set --; fi
done
flush "$@"
"""
)
"""Reads names, one a line; prints lines of ``+`` and ``-`` for files there and not, each ``+`` followed by
one line that begins with its checksum, all after the line.
"""

MODES = """\
cd "$target" || exit 3
echo ready
set --
flush() { [ $# = 0 ] || chmod "$mode" "$@" || exit 3; }
mode=
while IFS= read -r line; do
    next=${line%% *} name=${line#* }
    case $name in *\\\\*) name=$(printf '%b.' "$name"); name=${name%.} ;; esac
    if [ "$next" != "$mode" ] || [ $# -ge 100 ]; then flush "$@"; set --; mode=$next; fi
    set -- "$@" "./$name"
done
flush "$@"
"""
"""Reads modes and names, one file a line; sets the modes."""

EXTRACT = (
    _LEFT
    + """\
if [ -e "$target" ] || [ -L "$target" ]; then [ -d "$target" ] || fail 'it is there and no directory'; fi
[ -d "$dir" ] || mkdir -p -- "$dir" || exit 3
for old in "$dir/.windtunnel-$id-$node"-*; do
    if [ -d "$old" ] && left "$old"; then
        rm -rf -- "$old" 2>/dev/null || { chmod -R u+rwx "$old"; rm -rf -- "$old"; }
    fi
done
name=.windtunnel-$id-$node-$PPID.$$
umask 077
mkdir -- "$dir/$name" || exit 3
cd -- "$dir/$name" || exit 3
printf 'send %s\\n' "$name"
tar -xpmof - || exit 3
"""
)
"""Takes a tape archive into a directory beside the target, whose name it gives."""

COMMIT = """\
merge() {
    for entry in "$1"/* "$1"/.[!.]* "$1"/..?*; do
        [ -e "$entry" ] || [ -L "$entry" ] || continue
        place=$2/${entry##*/}
        if [ -d "$entry" ] && [ ! -L "$entry" ]; then
            if [ -L "$place" ] || { [ -e "$place" ] && [ ! -d "$place" ]; }; then
                fail "${place#"$target"/} is there and no directory"
            elif [ -d "$place" ]; then
                merge "$entry" "$place"
            else
                mv -- "$entry" "$place" || exit 3
            fi
        elif [ -d "$place" ] && [ ! -L "$place" ]; then
            fail "${place#"$target"/} is there and a directory"
        fi
    done
    # What is left are files and links, and directories that are merged.
    find "$1" -maxdepth 1 ! -type d -exec sh -c 'mv -f -- "$@" "$0/"' "$2" {} + || exit 3
}
echo ready
if [ -d "$target" ] && [ -d "$part" ]; then
    merge "$part" "$target"
    rm -rf -- "$part"
else
    [ -z "$mode" ] || chmod "$mode" "$part" || exit 3
    mv -f -- "$part" "$target" || exit 3
fi
"""
"""Gives what is complete its name, or moves what is in it into the directory of that name."""

REMOVE = """\
echo ready
rm -rf -- "$part" 2>/dev/null || { chmod -R u+rwx "$part"; rm -rf -- "$part"; }
"""
"""Removes what is not to be completed."""
