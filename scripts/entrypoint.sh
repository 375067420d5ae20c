#!/bin/sh
# Entry point of the container: upscales /input into /output, with the ledger in its own Docker volume.
#
#   (options)        comic-upscale run --input /input --output /output --ledger /ledger/ledger.sqlite3 (options)
#   (command) ...    this command of comic-upscale, such as status, report or models
#   --health         exit code 0 while the ledger is readable and its last run is alive, finished or interrupted
set -eu
here=$(dirname "$0")
# A user without an entry in /etc/passwd has no name, but SSH needs one.
if [ -z "${LOGNAME:-}" ]; then
    LOGNAME=$(id -un 2>/dev/null) || LOGNAME=$(id -u)
    export LOGNAME
fi
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
    '' | -*) ;;
    # A list of the commands here would have to be kept up to date.
    *) exec "$here/comic-upscale" "$@" ;;
esac
exec "$here/comic-upscale" run --input "${COMIC_UPSCALE_INPUT:-/input}" --output "${COMIC_UPSCALE_OUTPUT:-/output}" \
    --ledger "$ledger" "$@"
