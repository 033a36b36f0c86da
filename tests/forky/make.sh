#!/bin/sh
# make.sh SYSTEM: makes a Debian testing in the folder SYSTEM, with what our setup.py asks for: as
# Debian packages, and aiozmq, which testing no longer has, from PyPI. Takes a minute or two.
#
# Where that cannot be, it says so in one line, and the status is 1. The mirror and the settings of
# apt and pip are this machine's.
set -eu

SUITE=forky
PACKAGES="make python3-pip python3-redis python3-tqdm python3-venv python3-zmq"

system=$1
new=$system.new
log=$system.log
enter="$(dirname "$0")/enter.sh $new"

give_up() {
    echo "No Debian testing can be made here: $1"
    exit 1
}

[ "$(id -u)" = 0 ] || give_up "that needs root"
command -v debootstrap >/dev/null || give_up "debootstrap is not installed"
unshare --mount true 2>/dev/null || give_up "no mount namespaces are to be had"

mirror() {
    apt-get download --print-uris base-files 2>/dev/null | sed -n "s,^'\(.*\)/pool/.*,\1,p"
}
mirror=$(mirror)
if [ -z "$mirror" ]; then
    apt-get -qq update 2>/dev/null || :
    mirror=$(mirror)
fi
[ -n "$mirror" ] || give_up "apt knows no mirror of Debian"

make_system() {
    # An older debootstrap does not know the suite, nor an older keyring its key; all suites are
    # made in the way of sid.
    debootstrap --no-check-gpg --variant=minbase --include=ca-certificates \
        "$SUITE" "$new" "$mirror" /usr/share/debootstrap/scripts/sid

    printf '#!/bin/sh\nexit 101\n' >"$new/usr/sbin/policy-rc.d"  # no daemon is started
    chmod +x "$new/usr/sbin/policy-rc.d"
    apt-config dump | grep -E '^Acquire::(https?|Check-)' >"$new/etc/apt/apt.conf.d/90host" || :
    {
        echo 'Acquire::Check-Valid-Until "false";'  # a mirror may be a snapshot
        echo 'APT::Install-Recommends "false";'
    } >>"$new/etc/apt/apt.conf.d/90host"
    {
        echo '[global]'
        for name in index-url trusted-host proxy; do
            value=$(python3 -m pip config get "global.$name" 2>/dev/null) || continue
            echo "$name = $value"
        done
    } >"$new/etc/pip.conf"

    $enter apt-get -qq update
    $enter env DEBIAN_FRONTEND=noninteractive apt-get -qq install $PACKAGES
    # What "break" means: it goes where Debian's own packages look, too.
    $enter python3 -m pip install --break-system-packages --root-user-action=ignore aiozmq
}

mkdir -p "$(dirname "$system")"
rm -rf "$new"
echo "Making a Debian testing in $system"
# As a process of its own: in an `||` list `set -e` would not count.
(set -e; make_system) >"$log" 2>&1 &
wait $! || give_up "see the end of $log"
mv "$new" "$system"
