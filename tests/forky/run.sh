#!/bin/sh
# run.sh FOLDER [VARIABLE=VALUE...]: runs `make test`, with those variables, on a copy of this
# checkout in a Debian testing, which is made in FOLDER and kept there.
#
# Where none can be made, that is said in one line, and counts as skipped.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
mkdir -p "$1"
system=$(cd "$1" && pwd)/system
shift

if [ ! -d "$system" ] && ! "$here/make.sh" "$system"; then
    echo "0 passed, 0 failed, 1 skipped"
    exit
fi

# The environments of the last run are kept: they are as old as setup.py, as here.
copy=$system/srv/zmqpush
mkdir -p "$copy"
find "$copy" -mindepth 1 -maxdepth 1 ! -name '.venv*' -exec rm -rf {} +
tar -C "$top" -c --exclude='./.*' --exclude=__pycache__ . | tar -C "$copy" -x

exec "$here/enter.sh" "$system" make --no-print-directory -C /srv/zmqpush test \
    VENV="venv --system-site-packages" "$@"
