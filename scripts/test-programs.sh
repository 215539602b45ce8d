#!/usr/bin/env bash
# Find the system programs that some tests compare with; say what is missing, and install it only when asked to.
# INSTALL=1 installs without a question, INSTALL=0 never asks; otherwise a person at a terminal is asked.
set -u
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# program|Debian packages|what is skipped without it
TABLE='
getfacl|acl|access lists compared with setfacl and getfacl
setfacl|acl|access lists compared with setfacl and getfacl
getfattr|attr|extended attributes compared with getfattr
setfattr|attr|extended attributes compared with getfattr
chattr|e2fsprogs|inode flags
mkfs.ext4|e2fsprogs|full disks, file systems of their own
mkfs.btrfs|btrfs-progs|restores onto btrfs
mkfs.vfat|dosfstools|restores onto FAT
mkfs.exfat|exfatprogs|restores onto exFAT
mkntfs|ntfs-3g|restores onto NTFS
sqlite3|sqlite3|the guide of databases
initdb|postgresql|the catalog and the directory on PostgreSQL
amcheck|amanda-server amanda-client libencode-locale-perl procps|everything under the real Amanda
sudo|sudo|everything under the real Amanda
fusermount3|fuse3|mounts as an ordinary user
git|git|.dalignore beside git, work with git in a mount
rsync|rsync|rsync from a mount
mkfs.btrfs|btrfs-progs|restore over subvolumes and no-copy-on-write
mkntfs|ntfs-3g|restore where names have no case
mkfs.exfat|exfatprogs|restore to a stick
mount.exfat-fuse|exfat-fuse|restore to a stick
fio|fio|load on a mount
make|make|builds in a mount
cc|gcc libc6-dev|system calls on a mount, made by a C program
ip|iproute2|networks that are cut
curl|curl|the server with nothing but curl
zsh|zsh|the completion of zsh
fish|fish|the completion of fish
'
PLACEHOLDER=dalsegno-test-placeholder

missing_rows() {
    local program packages without
    while IFS='|' read -r program packages without; do
        [ -n "$program" ] || continue
        command -v "$program" >/dev/null && continue
        [ -n "$(compgen -G "/usr/lib/postgresql/*/bin/$program")" ] && continue
        echo "$program|$packages|$without"
    done <<<"$TABLE"
}

# Debian's Amanda wants a mail program (and with it a mail server) and an inetd. The tests use neither: an empty package that
# claims to be both stands in their place, unless they are here already.
make_placeholder() {
    local work=$1 provides=
    dpkg-query -W -f '${Provides}\n' 2>/dev/null | grep -qw inet-superserver || provides=inet-superserver
    dpkg-query -W -f '${Provides}\n' 2>/dev/null | grep -qw mailx || provides=${provides:+$provides, }mailx
    [ -n "$provides" ] || return 1
    mkdir -p "$work/$PLACEHOLDER/DEBIAN"
    cat >"$work/$PLACEHOLDER/DEBIAN/control" <<END
Package: $PLACEHOLDER
Version: 1
Architecture: all
Maintainer: nobody <nobody@localhost>
Provides: $provides
Description: stands where Amanda wants a mail program and an inetd
 Empty. Made by the tests of Dal Segno so that they need no mail server. Remove it with Amanda.
END
    chmod 755 "$work/$PLACEHOLDER" "$work/$PLACEHOLDER/DEBIAN"
    dpkg-deb --root-owner-group --build "$work/$PLACEHOLDER" "$work" >/dev/null
    echo "$work/${PLACEHOLDER}_1_all.deb"
}

missing=$(missing_rows)
packages=$(cut -d'|' -f2 <<<"$missing" | tr ' ' '\n' | sort -u | xargs)
can_install=0
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && can_install=1

answer=${INSTALL:-}
if [ -n "$missing" ]; then
    echo "Some tests compare with programs that are not here:"
    awk -F'|' '{ printf "  %-12s %s\n", $1, $3 }' <<<"$missing"
    echo "On Debian: apt-get install --no-install-recommends $packages"
    if [ $can_install = 1 ] && [ -z "$answer" ] && [ -t 0 ] && [ -t 1 ]; then
        read -r -p "Install these now? (No mail server and no inetd come with them.) [y/N] " answer
        case $answer in [yY]*) answer=1 ;; *) answer=0 ;; esac
    fi
fi

if [ -n "$missing" ] && [ "${answer:-0}" = 1 ]; then
    if [ $can_install = 1 ]; then
        work=$(mktemp -d)
        trap 'rm -rf "$work"' EXIT
        extra=
        case " $packages " in *" amanda-server "*)
            if extra=$(make_placeholder "$work"); then
                echo "$PLACEHOLDER: an empty package in the place of a mail program and an inetd; apt-get purge removes it"
            else
                extra=
            fi ;;
        esac
        export DEBIAN_FRONTEND=noninteractive
        echo "Installing: $packages"
        # shellcheck disable=SC2086
        if apt-get -qq update </dev/null >"$work/log" 2>&1 &&
            apt-get -qq install -y --no-install-recommends $extra $packages </dev/null >>"$work/log" 2>&1; then
            echo "Installed: $packages"
        else
            echo "!!! apt-get failed; its last lines:"
            tail -15 "$work/log"
        fi
        missing=$(missing_rows)
    else
        echo "!!! INSTALL=1 needs root and apt-get; nothing was installed."
    fi
elif [ -n "$missing" ] && [ $can_install = 1 ]; then
    echo "'make test INSTALL=1' does that, with an empty package where Amanda wants a mail server and an inetd."
fi

if [ -n "$missing" ]; then
    echo "!!! WILL BE SKIPPED:"
    cut -d'|' -f3 <<<"$missing" | sort -u | sed 's/^/!!!   /'
fi
[ "$(id -u)" = 0 ] || echo "!!! Not root: tests of owners, devices, capabilities, trusted attributes, full disks, PostgreSQL, networks and Amanda WILL BE SKIPPED."
exit 0
