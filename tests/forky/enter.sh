#!/bin/sh
# enter.sh SYSTEM COMMAND...: runs a command as root in the system that lies in the folder SYSTEM.
#
# Its root is changed by pivot_root, in a mount namespace of its own: in a chroot the tests could
# make no namespaces. What is mounted is seen in there only, and is gone with the last process, so
# the folder can be removed at any time. Processes and network are this machine's.
set -eu

if [ "$1" != --inside ]; then
    exec unshare --mount --propagation private "$0" --inside "$@"
fi
shift
system=$1
shift

# How this machine reaches a network.
for file in /etc/hosts /etc/resolv.conf /etc/ssl/certs/ca-certificates.crt; do
    if [ -e "$file" ]; then cp "$file" "$system$file"; fi
done
for name in $(env | sed -n 's/^\([A-Za-z_][A-Za-z_0-9]*\)=.*/\1/p'); do
    case $name in
        CI | TERM | *_proxy | *_PROXY) ;;
        PIP_INDEX_URL | PIP_EXTRA_INDEX_URL | PIP_TRUSTED_HOST | PIP_DEFAULT_TIMEOUT) ;;
        *) unset "$name" ;;
    esac
done
export HOME=/root LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PIP_CERT=/etc/ssl/certs/ca-certificates.crt

mount --bind "$system" "$system"  # pivot_root wants a mount point
for place in /dev /proc /sys; do mount --rbind "$place" "$system$place"; done
mount -t tmpfs tmpfs "$system/run"
cd "$system"
pivot_root . mnt
cd /
umount --lazy /mnt
exec "$@"
