#!/bin/sh
# Ships the newest lines of a log of this machine to the collector, on a free port of the loopback,
# and shows what arrives there. Run by `make demo`, which puts the virtual environment on the PATH.
set -eu
cd "$(dirname "$0")/.."

DEADLINE_S=30  # nothing here may wait for ever

source="head -n 5 /proc/meminfo"
for log in /var/log/dnf.log /var/log/messages /var/log/syslog /var/log/dpkg.log; do
    if [ -r "$log" ] && [ -s "$log" ]; then source="tail -n 5 $log"; fi
done
lines=$($source | grep -c '')

dir=$(mktemp -d)
collector=
trap 'kill $collector 2>/dev/null || :; rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM

mkfifo "$dir/stderr"
timeout "$DEADLINE_S" ./zmqpull.py --bind 'tcp://127.0.0.1:*' -n "$lines" \
    >"$dir/arrived" 2>"$dir/stderr" &
collector=$!
exec 3<"$dir/stderr"
read -r _ _ _ endpoint <&3  # "zmqpull.py: bound to ..."
echo "$ ./zmqpull.py --bind $endpoint -n $lines"

set -- ./zmqpush.py demo --field "host=$(uname -n)" --connect "$endpoint"
echo "$ $source | $*"
$source | timeout --foreground "$DEADLINE_S" "$@"
wait "$collector"
echo
echo "What arrived at $endpoint:"
cat "$dir/arrived"
