#!/usr/bin/env bash
# Fetch the small system programs that some tests compare with; say loudly what is skipped without them.
set -u

declare -A package_of=([getfacl]=acl [setfacl]=acl [getfattr]=attr [setfattr]=attr [chattr]=e2fsprogs [lsattr]=e2fsprogs)

package_of[initdb]=postgresql
package_of[amcheck]="amanda-server amanda-client libencode-locale-perl procps"
package_of[sudo]=sudo
package_of[fusermount3]=fuse3
package_of[git]=git
package_of[rsync]=rsync
package_of[fio]=fio
package_of[make]=make
package_of[cc]="gcc libc6-dev"

missing_programs() {
    local program
    for program in "${!package_of[@]}"; do
        command -v "$program" >/dev/null || [ -n "$(compgen -G "/usr/lib/postgresql/*/bin/$program")" ] || echo "$program"
    done | sort
}

missing=$(missing_programs)
if [ -n "$missing" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    packages=$(for program in $missing; do echo "${package_of[$program]}"; done | sort -u)
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    { apt-get -qq update && apt-get -qq install -y --no-install-recommends $packages; } </dev/null >/dev/null 2>&1 || true
    missing=$(missing_programs)
fi

if [ -n "$missing" ]; then
    echo "!!! NOT FOUND: $(echo $missing)"
    echo "!!! Tests that compare ACLs, extended attributes or inode flags with these programs WILL BE SKIPPED;"
    echo "!!! without initdb, those of the catalog on PostgreSQL; without amcheck or sudo, those under the real Amanda;"
    echo "!!! without fusermount3, git, rsync, fio or cc, those of mounts with them."
    echo "!!! On Debian: apt-get install acl attr e2fsprogs postgresql ${package_of[amcheck]} sudo"
fi
[ "$(id -u)" = 0 ] || echo "!!! Not root: tests of owners, devices, capabilities, trusted attributes, full disks, PostgreSQL and Amanda WILL BE SKIPPED."
exit 0
