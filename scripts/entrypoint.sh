#!/bin/sh
# What the container runs: /input into /output, with the ledger on a volume of its own.
#
#   (options)        comic-upscale run --input /input --output /output --ledger /ledger/ledger.sqlite3 (options)
#   status|cost|report|models ...   that command of comic-upscale, and so any other of its commands
#   --health         0 while the ledger can be read and the run that it tells of lives, or has ended by itself
set -eu
here=$(dirname "$0")
ledger=${COMIC_UPSCALE_LEDGER:-/ledger/ledger.sqlite3}

case ${1:-} in
    -h | --help | --version) exec "$here/comic-upscale" "$@" ;;
    --health)
        # Before the first page there is no ledger yet: the time to start is the health check's own.
        [ -f "$ledger" ] || exit 1
        said=$("$here/comic-upscale" status --ledger "$ledger" --json) || exit 1
        case $said in
            *'"run_state": "died"'* | *'"run_state": "failed"'*) exit 1 ;;
        esac
        exit 0 ;;
    run | status | export | cost | bench | report | evaluate | watchdog | models | engines | remote)
        exec "$here/comic-upscale" "$@" ;;
esac
exec "$here/comic-upscale" run --input "${COMIC_UPSCALE_INPUT:-/input}" --output "${COMIC_UPSCALE_OUTPUT:-/output}" \
    --ledger "$ledger" "$@"
