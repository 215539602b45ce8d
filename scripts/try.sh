#!/usr/bin/env bash
# The whole classic job on a copy of a real directory: back up, change, dump, merge, verify, restore, compare.
# Usage: scripts/try.sh [DIR]. Nothing outside one temporary directory is written.
set -euo pipefail

DIR=${1:-}
DIR=${DIR/#\~\//$HOME/}  # not every shell does it in `make try DIR=~/src`
COPY_MIB_MAX=200
if [ -z "$DIR" ]; then
    for DIR in /usr/share/doc /usr/share /usr/lib/python3 /etc; do
        [ -d "$DIR" ] && [ "$(find "$DIR" -xdev -type f 2>/dev/null | head -200 | wc -l)" -ge 50 ] && break
    done
fi
[ -d "$DIR" ] || { echo "try: $DIR is not a directory: make try DIR=/some/dir" >&2; exit 2; }
DIR=$(cd "$DIR" && pwd -P)
command -v dal >/dev/null || { echo "try: no dal command: run it as 'make try'" >&2; exit 1; }

WORK=$(mktemp -d -t dal-try.XXXXXX)
trap 'chmod -R u+rwX "$WORK" 2>/dev/null || true; rm -rf "$WORK"' EXIT  # the copy may have directories that are read-only
export HOME=$WORK/home DAL_POOL=$WORK/pool
export XDG_DATA_HOME=$WORK/home/data XDG_CONFIG_HOME=$WORK/home/config
export XDG_CACHE_HOME=$WORK/home/cache XDG_STATE_HOME=$WORK/home/state
unset DAL_PASSPHRASE DAL_PASSPHRASE_FILE DAL_NOW DAL_FAULT
mkdir -p "$HOME"

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi
heading() { printf '\n%s%s%s\n' "$bold" "$1" "$plain"; }
run() { printf '%s$ %s%s\n' "$dim" "$*" "$plain"; "$@"; }

NAME=$(basename "$DIR")
case $NAME in *[!A-Za-z0-9._-]* | '' | / | .* | -*) NAME=tree ;; esac
TREE=$WORK/$NAME

heading "A copy of $DIR to play with"
mkdir "$TREE"
taken=0
left_out=()
# Whole top-level entries, in name order, as long as they fit.
while IFS= read -r -d '' item; do
    mib=$({ du -smx -- "$item" 2>/dev/null || true; } | cut -f1)  # it complains of what it may not read
    if [ $((taken + ${mib:-0})) -gt "$COPY_MIB_MAX" ]; then
        left_out+=("$(basename -- "$item")  ($mib MiB)")
        continue
    fi
    cp -a -- "$item" "$TREE/" 2>/dev/null || left_out+=("$(basename -- "$item")  (a part of it could not be copied)")
    taken=$((taken + ${mib:-0}))
done < <(find "$DIR" -xdev -mindepth 1 -maxdepth 1 ! -type s -readable -print0 | sort -z)
while IFS= read -r -d '' item; do
    left_out+=("$(basename -- "$item")  (a socket, or not readable for you)")
done < <(find "$DIR" -xdev -mindepth 1 -maxdepth 1 \( -type s -o ! -readable \) -print0 | sort -z)
# Directories that nobody may read came without what is in them.
find "$TREE" -type d ! -perm -u=rx -exec chmod u+rx {} + 2>/dev/null || true
# One of each thing that is easy to lose.
printf 'two names, one file\n' >"$TREE/try-link-one"
ln "$TREE/try-link-one" "$TREE/try-link-two"
ln -sf try-link-one "$TREE/try-symlink"
mkfifo "$TREE/try-fifo"
truncate -s 16M "$TREE/try-sparse"
printf 'the end' | dd of="$TREE/try-sparse" bs=1 seek=9000000 conv=notrunc status=none
chmod 4750 "$TREE/try-sparse"
printf 'not UTF-8\n' >"$TREE/"$'try-\xff\xfe'
setfattr -n user.try -v kept "$TREE/try-link-one" 2>/dev/null || true
echo "$(find "$TREE" | wc -l) entries, $(du -sh "$TREE" | cut -f1), in $TREE"
if [ ${#left_out[@]} -gt 0 ]; then
    echo "NOT copied, and so not tried ($COPY_MIB_MAX MiB are copied, in the order of names):"
    printf '  %s\n' "${left_out[@]:0:20}"
    [ ${#left_out[@]} -le 20 ] || echo "  ... and $((${#left_out[@]} - 20)) more"
fi

# Change about fifty files in as many ways as files change.
change() {
    local round=$1 count=0 path
    while IFS= read -r -d '' path; do
        [ -w "${path%/*}" ] || continue  # a read-only directory stays as it is
        count=$((count + 1))
        case $((count % 5)) in
            0) rm -f -- "$path" ;;
            1) printf 'changed in round %s\n' "$round" >>"$path" ;;
            2) mv -- "$path" "$path.renamed-$round" ;;
            3) chmod 600 -- "$path" ;;
            4) printf 'new in round %s\n' "$round" >"$path.new-$round" ;;
        esac
    done < <(find "$TREE" -type f -writable -size -1024k ! -name 'try-*' -print0 | sort -z |
        awk -v RS='\0' -v ORS='\0' -v round="$round" '(NR + round) % 7 == 0' | head -z -n 50)
    printf 'round %s\n' "$round" >"$TREE/try-round"
    echo "round $round: $count files changed, renamed, deleted, added or given another mode"
}

heading "1. The first backup: nothing is configured, everything is stored"
run dal backup "$TREE"

heading "2. Change some files, back up again: only what changed is read and stored"
change 1
run dal backup "$TREE"
run dal clones "$NAME"

heading "3. A full dump (level 0): one ordinary file"
run dal dump "$NAME" --level 0 -o "$WORK/full.dump"

heading "4. Change more, clone, and dump only the difference (level 1)"
change 2
run dal clone "$NAME"
run dal dump "$NAME" --level 1 -o "$WORK/incr1.dump"

heading "5. Merge them into a new full dump, without the source"
run dal merge -o "$WORK/merged.dump" "$WORK/full.dump" "$WORK/incr1.dump"
ls -l "$WORK"/*.dump | awk '{printf "%12d  %s\n", $5, $9}'

heading "6. Verify it: every byte"
run dal verify "$WORK/merged.dump"

heading "7. Restore it into an empty directory"
run dal restore "$WORK/merged.dump" --to "$WORK/out"

heading "8. Compare with what was backed up"
# FIFOs are left to find: diff would call them different. Directory sizes belong to the file system, not to the tree.
listing() {
    (cd "$1" && find . -printf '%P\t%y\t%m\t%U:%G\t%n\t%l\t%T@\t' \( ! -type d -printf '%s\n' -o -printf '\n' \) |
        awk -F'\t' -v OFS='\t' '$2 == "d" { $5 = "-" } { print }' | LC_ALL=C sort)
}
# In name order: the order of a directory is its own.
everywhere() { (cd "$1" && shift && find . -print0 | LC_ALL=C sort -z | xargs -0 "$@" 2>/dev/null) || true; }
different=0
compare() {
    local what=$1
    shift
    if "$@"; then printf '  %-64s equal\n' "$what"; else printf '  %-64s DIFFERENT\n' "$what"; different=1; fi
}
echo "$TREE  with  $WORK/out"
same_content() { diff -r --no-dereference --exclude=try-fifo "$TREE" "$WORK/out"; }
same_listing() { diff <(listing "$TREE") <(listing "$WORK/out"); }
same_attributes() { diff <(everywhere "$TREE" getfattr -h -d -m -) <(everywhere "$WORK/out" getfattr -h -d -m -); }
same_access() { diff <(everywhere "$TREE" getfacl -P) <(everywhere "$WORK/out" getfacl -P); }
compare "content (diff -r)" same_content
compare "kind, mode, owners, links, times to the nanosecond, size (find)" same_listing
if command -v getfattr >/dev/null && command -v getfacl >/dev/null; then
    compare "extended attributes (getfattr)" same_attributes
    compare "access lists (getfacl)" same_access
else
    echo "  extended attributes and access lists were NOT compared: getfattr and getfacl are not installed"
fi
blocks=$(stat -c %b "$WORK/out/try-sparse")
if [ "$blocks" -gt 2048 ]; then echo "try-sparse: $blocks blocks, its holes were filled"; different=1; fi

if [ "$different" = 0 ]; then
    printf '\n%sno difference%s\n' "$bold" "$plain"
else
    printf '\n%sTHERE ARE DIFFERENCES%s\n' "$bold" "$plain"
    exit 1
fi
