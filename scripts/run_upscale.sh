#!/usr/bin/env bash
# Start comic-upscale detached from this terminal, in a container or directly. The same command continues a job.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: run_upscale.sh [options] INPUT OUTPUT [-- OPTIONS OF comic-upscale run]

Starts `comic-upscale run` from INPUT into OUTPUT, detached from this terminal. Its output goes to
OUTPUT/.comic-upscale/run.log. If the job is already running, nothing is started. If it has stopped, it
continues.

  --docker IMAGE   run in a container of this image, with all GPUs (default: the installed comic-upscale)
  --name NAME      name of the container (default: comic-upscale)
  --ledger DIR     folder for the ledger, mounted separately in a container (default: inside OUTPUT)
  --weights DIR    folder with your own weights
  --cpu            use no GPU
  --dry-run        print the command that would be started
  -h, --help       show this help

Exit codes: 0 it is running, 1 it could not be started, 2 usage.
HELP
}

fail() { printf 'error: %s\n' "$1" >&2; exit "${2:-2}"; }

image='' name=comic-upscale ledger='' weights='' cpu='' dry_run='' places=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --dry-run) dry_run=yes ;;
        --cpu) cpu=yes ;;
        --docker | --name | --ledger | --weights)
            if [ $# -lt 2 ] || [ -z "$2" ]; then fail "$1 needs a value"; fi
            case $1 in
                --docker) image=$2 ;;
                --name) name=$2 ;;
                --ledger) ledger=$2 ;;
                --weights) weights=$2 ;;
            esac
            shift ;;
        --) shift; break ;;
        -*) fail "unknown option $1; --help shows them (options of run go after --)" ;;
        *) places+=("$1") ;;
    esac
    shift
done
# Docker would read these as options.
case $image in -*) fail "$image is not the name of an image" ;; esac
case $name in -*) fail "$name is not the name of a container" ;; esac
[ ${#places[@]} -eq 2 ] || fail "needs INPUT and OUTPUT; --help shows how"
[ -e "${places[0]}" ] || fail "${places[0]} does not exist" 1
input=$(realpath -- "${places[0]}") output=$(realpath -m -- "${places[1]}")
[ -z "$ledger" ] || ledger=$(realpath -m -- "$ledger")
[ -z "$weights" ] || weights=$(realpath -e -- "$weights") || fail "the folder of weights does not exist" 1
[ -z "$cpu" ] || set -- --device cpu "$@"

show() { printf '%q ' "$@"; echo; }

if [ -n "$image" ]; then
    for place in "$input" "$output" "$ledger" "$weights"; do
        case $place in *:*) fail "$place contains a colon, so Docker cannot mount it: rename it" ;; esac
    done
    command=(docker run --detach --name "$name" --user "$(id -u):$(id -g)")
    [ -n "$cpu" ] || command+=(--gpus all)
    command+=(--volume "$input:/input:ro" --volume "$output:/output")
    # The image keeps the ledger in its own volume, which would be removed with the container.
    if [ -n "$ledger" ]; then
        command+=(--volume "$ledger:/ledger")
    else
        command+=(--env COMIC_UPSCALE_LEDGER=/output/.comic-upscale/ledger.sqlite3)
    fi
    [ -z "$weights" ] || command+=(--volume "$weights:/weights:ro")
    command+=("$image" "$@")
    if [ -n "$dry_run" ]; then show "${command[@]}"; exit 0; fi
    command -v docker >/dev/null || fail "docker is not installed: leave --docker out" 1
    if [ "$(docker inspect --format '{{.State.Running}}' -- "$name" 2>/dev/null)" = true ]; then
        echo "$name is already running: docker logs --follow $name"
        exit 0
    fi
    mkdir -p -- "$output" ${ledger:+"$ledger"}
    docker rm -- "$name" >/dev/null 2>&1 || true
    "${command[@]}" >/dev/null || fail "the container could not be started" 1
    echo "$name is running: docker logs --follow $name"
    exit 0
fi

command=(comic-upscale run --input "$input" --output "$output")
[ -z "$ledger" ] || command+=(--ledger "$ledger/ledger.sqlite3")
[ -z "$weights" ] || command+=(--weights-dir "$weights")
command+=("$@")
if [ -n "$dry_run" ]; then show "${command[@]}"; exit 0; fi
command -v comic-upscale >/dev/null || fail "comic-upscale is not installed: pip install . in a clone" 1
mkdir -p "$output/.comic-upscale" ${ledger:+"$ledger"}
log=$output/.comic-upscale/run.log
# The lock ends with the run, so a dead run never looks alive.
exec 9>"$output/.comic-upscale/started.lock"
if ! flock --nonblock 9; then
    echo "it is already running: tail -f $log"
    exit 0
fi
setsid nohup "${command[@]}" </dev/null >>"$log" 2>&1 &
pid=$!
sleep 1
if ! kill -0 "$pid" 2>/dev/null && ! wait "$pid"; then
    tail -n 5 "$log" >&2
    fail "the run ended at once" 1
fi
echo "it is running: tail -f $log, or comic-upscale status --job $output"
