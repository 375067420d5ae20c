#!/bin/sh
# Entry point of the container: upscales /input into /output, with the ledger in its own Docker volume.
#
#   (options)        comic-upscale run --input /input --output /output --ledger /ledger/ledger.sqlite3 (options)
#   status|cost|report|models ...   this command of comic-upscale; the same for its other commands
#   --health         exit code 0 while the ledger is readable and its last run is alive, finished or interrupted
set -eu
here=$(dirname "$0")
ledger=${COMIC_UPSCALE_LEDGER:-/ledger/ledger.sqlite3}

case ${1:-} in
    -h | --help | --version) exec "$here/comic-upscale" "$@" ;;
    --health)
        # There is no ledger before the run starts. The start period of the health check covers that time.
        [ -f "$ledger" ] || exit 1
        status=$("$here/comic-upscale" status --ledger "$ledger" --json) || exit 1
        case $status in
            *'"run_state": "died"'* | *'"run_state": "failed"'*) exit 1 ;;
        esac
        exit 0 ;;
    run | status | export | prune | cost | bench | report | evaluate | watchdog | models | engines | remote)
        exec "$here/comic-upscale" "$@" ;;
esac
exec "$here/comic-upscale" run --input "${COMIC_UPSCALE_INPUT:-/input}" --output "${COMIC_UPSCALE_OUTPUT:-/output}" \
    --ledger "$ledger" "$@"
