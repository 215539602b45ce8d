#!/usr/bin/env bash
# Run something of this project on another Debian than this machine's: a root made by debootstrap, with a copy of the project in it.
# Usage, as root: scripts/test-on.sh [SUITE [COMMAND...]]     default: trixie (Debian 13, Python 3.13), make try check
# For example:    scripts/test-on.sh trixie make test INSTALL=1
# The root is kept for the next time, in DAL_TEST_ROOTS (default ~/.cache/dalsegno-roots); the mirror and pip's settings are this
# machine's. Nothing else is written here, and whatever runs in there ends with the command.
set -euo pipefail

suite=${1:-trixie}
[ $# = 0 ] || shift
[ $# != 0 ] || set -- make try check
[ "$(id -u)" = 0 ] || { echo "test-on: only root can make another root" >&2; exit 2; }
command -v debootstrap >/dev/null || { echo "test-on: no debootstrap: apt-get install debootstrap" >&2; exit 2; }
project=$(cd "$(dirname "$0")/.." && pwd -P)
root=${DAL_TEST_ROOTS:-${HOME:-/root}/.cache/dalsegno-roots}/$suite

# The first place that this machine's apt takes Debian itself from.
mirror=$(
    { cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | sed -nE 's/^deb +(\[[^]]*\] +)?([^ ]+) .* main.*/\2/p'
      awk '/^URIs:/ { uri = $2 } /^Components:.*main/ { print uri }' /etc/apt/sources.list.d/*.sources 2>/dev/null; } |
        grep -v security | head -1
)
if [ ! -e "$root/.made" ]; then
    [ -n "$mirror" ] || { echo "test-on: no mirror of Debian in /etc/apt" >&2; exit 2; }
    echo "making $root from this machine's mirror"
    rm -rf --one-file-system "$root"
    mkdir -p "$root"
    debootstrap --variant=minbase --include=ca-certificates,e2fsprogs,git,make,python3-venv "$suite" "$root" "$mirror" >"$root.log" 2>&1 ||
        { tail -5 "$root.log" >&2; exit 1; }
    touch "$root/.made"
fi

rm -rf "$root/project.new"
mkdir -p "$root/project" "$root/project.new"
git -c safe.directory="$project" -C "$project" ls-files -z | (cd "$project" && xargs -0 tar -c --ignore-failed-read -f -) | tar -x -C "$root/project.new"
# The environment that pip made there is kept: it is the slow part.
[ ! -e "$root/project/.venv" ] || mv "$root/project/.venv" "$root/project.new/.venv"
rm -rf "$root/project"
mv "$root/project.new" "$root/project"

# pip's settings and the directories that they name (an index's files lie beside its pages).
places=$({ env | grep '^PIP_' || true; python3 -m pip config list 2>/dev/null || true; } | grep -oE "(file://)?/[^' ]+" | sed 's,^file://,,; s,/simple/\?$,,' | sort -u)

export suite root places
exec unshare --mount --pid --fork --kill-child bash -euo pipefail -c '
    # A mount point of its own, as a root is; its /tmp lies on a disk, as most do.
    mount --bind "$root" "$root"
    chattr -R -i -a "$root/tmp" 2>/dev/null || true
    rm -rf --one-file-system "$root/tmp"
    mkdir -m 1777 "$root/tmp"
    ln -sf /proc/self/mounts "$root/etc/mtab"
    for path in /etc/pip.conf /etc/xdg/pip /root/.config/pip $places; do
        [ -e "$path" ] || continue
        if [ -d "$path" ]; then mkdir -p "$root$path"; else mkdir -p "$root${path%/*}"; touch "$root$path"; fi
        mount --bind "$path" "$root$path"
    done
    cp -L /etc/resolv.conf "$root/etc/resolv.conf"
    mount --rbind /dev "$root/dev"
    mount --rbind /sys "$root/sys"
    mount -t proc proc "$root/proc"
    exec env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM="${TERM:-dumb}" \
        $(env | grep "^PIP_" || true) chroot "$root" sh -c "cd /project && exec \"\$@\"" sh "$@"
' bash "$@"
