#!/usr/bin/env bash
# Build the Docker image and use it as the documentation says. Needs a Docker daemon, gigabytes and minutes.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: check_image.sh [options] [-- OPTIONS OF DOCKER BUILD]

Builds the image and runs it on pages: as another user, with a read-only input, killed and continued, stopped and
continued, its other commands, its health check, and with Docker Compose. It needs no GPU and no network.

  --image NAME   check this image instead of building one
  --pages DIR    pages to upscale, at least three (default: examples/pages of this repository)
  --keep         keep the image that was built
  -h, --help     show this help

Exit code 0: everything works. 1: something does not. 2: wrong usage. 77: Docker is not here.

  scripts/check_image.sh -- --network host --build-arg BASE=debian:13 --build-arg MODELS= --build-arg TORCH_INDEX=
HELP
}

fail() { printf 'error: %s\n' "$1" >&2; exit 2; }

image='' pages='' keep='' build=()
root=$(cd "$(dirname "$0")/.." && pwd)
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --keep) keep=yes; shift; continue ;;
        --) shift; build=("$@"); break ;;
        --image | --pages) [ $# -ge 2 ] || fail "$1 needs a value" ;;
        *) fail "unknown option $1; --help shows them" ;;
    esac
    case $1 in
        --image) image=$2 ;;
        --pages) pages=$2 ;;
    esac
    shift 2
done
pages=${pages:-$root/examples/pages}
[ -d "$pages" ] || fail "$pages is not a folder"

skip() { printf 'skipped: %s\n' "$1"; exit 77; }
command -v docker >/dev/null || skip 'Docker is not installed'
docker info >/dev/null 2>&1 || skip 'no Docker daemon answers'

# The user in the containers. It has no name there and no home folder.
user=1234:1234
id=comic-upscale-check-$$
work=$(mktemp -d)
built=''
clean_up() {
    docker rm --force "$id" >/dev/null 2>&1 || true
    # The files belong to users of the containers.
    [ -z "$image" ] || docker run --rm --network none --user 0 --entrypoint chmod --volume "$work:/work" "$image" \
        -R a+rwX /work >/dev/null 2>&1 || true
    rm -rf "$work"
    if [ -n "$built" ] && [ -z "$keep" ]; then docker rmi "$image" >/dev/null 2>&1 || true; fi
}
trap clean_up EXIT

passed() { printf 'ok: %s\n' "$1"; }
broken() {
    printf 'failed: %s\n' "$1" >&2
    docker logs "$id" 2>&1 | tail -n 20 >&2 || true
    exit 1
}

if [ -z "$image" ]; then
    image=comic-upscale-check:$$
    built=yes
    # The array may be empty, which Bash 4.3 and older take for unset.
    docker build ${build[@]+"${build[@]}"} --tag "$image" "$root"
    passed 'the image builds'
fi

# Input, output and ledger, as in the documentation.
mkdir -p "$work/pages" "$work/out" "$work/ledger"
cp -R "$pages/." "$work/pages/"
chmod -R a+rX "$work/pages"
chmod 755 "$work"
chmod 777 "$work/out" "$work/ledger"
checksums() { (cd "$work/pages" && find . -type f -exec cksum {} + | sort); }
before=$(checksums)
count=$(find "$work/pages" -type f \( -name '*.png' -o -name '*.jpg' \) | wc -l)
[ "$count" -ge 3 ] || fail "$pages has fewer than three pages"

shared=(--network none --user "$user" --volume "$work/pages:/input:ro" --volume "$work/out:/output"
    --volume "$work/ledger:/ledger")
# A command in a new container, which ends with it.
once() { docker run --rm "${shared[@]}" "$image" "$@"; }
# Whether a command prints this. Without a pipe, because grep closes it early.
says() {
    local text
    text=$("${@:2}") || return 1
    case $text in *"$1"*) ;; *) return 1 ;; esac
}
begin() {
    docker rm --force "$id" >/dev/null 2>&1 || true
    docker run --detach --name "$id" --health-interval 2s --health-start-period 1s "${shared[@]}" "$image" \
        --scale 2.5 --device cpu >/dev/null
}
outputs() { find "$work/out" -type f -name '*.png' -not -path '*/.comic-upscale/*' | sort; }
# Until as many outputs are there: minutes without a GPU.
await() {
    for _ in $(seq 600); do
        [ "$(outputs | wc -l)" -lt "$1" ] || return 0
        [ "$(docker inspect --format '{{.State.Running}}' "$id")" = true ] || broken 'the run ended early'
        sleep 1
    done
    broken "$1 page(s) take longer than ten minutes"
}

says 'comic-upscale ' once --version || broken '--version'
if once --health; then broken 'healthy without a ledger'; fi
if once nonsense >/dev/null 2>&1; then broken 'a command that does not exist is accepted'; fi
once cost --pages 1000 --scale 2.5 >/dev/null || broken 'cost'
once models list >/dev/null || broken 'models list'
docker run --rm "${shared[@]}" --entrypoint sh "$image" -c \
    'mkdir -p "$XDG_STATE_HOME/x" "$XDG_CACHE_HOME/x" "$XDG_DATA_HOME/x"' || broken 'a folder for state is not writable'
passed 'other commands work'

begin
await 1
for _ in $(seq 60); do
    health=$(docker inspect --format '{{.State.Health.Status}}' "$id")
    [ "$health" != healthy ] || break
    sleep 1
done
[ "$health" = healthy ] || broken "the health check of a live run says $health"
passed 'a live run is healthy'
says " of $count done" docker exec "$id" comic-upscale status || broken 'docker exec ... status'

docker kill "$id" >/dev/null
[ "$(outputs | wc -l)" -lt "$count" ] || broken 'the run was finished before it could be killed: give it more pages'
# Inode, time and size: the second run must leave these files alone.
first=$(outputs | xargs -d '\n' stat --format '%i %Y %s %n')
says " of $count done" once status || broken 'status of the killed run, without --ledger'
passed 'another container shows the status of the killed run'

begin
for _ in $(seq 120); do
    if says running docker exec "$id" comic-upscale status 2>/dev/null; then break; fi
    sleep 1
done
docker stop --time 120 "$id" >/dev/null
state=$(docker inspect --format '{{.State.ExitCode}}' "$id")
[ "$state" = 143 ] || broken "exit code $state after docker stop"
[ "$(outputs | wc -l)" -lt "$count" ] || broken 'docker stop did not end the run early'
once --health || broken 'a stopped run is not healthy'
says 'the run was stopped (SIGTERM)' once status || broken 'status of the stopped run'
passed 'docker stop ends a run in order'

begin
[ "$(docker wait "$id")" = 0 ] || broken 'the last run'
[ "$(outputs | wc -l)" = "$count" ] || broken "$(outputs | wc -l) of $count pages are there"
[ "$(printf '%s\n' "$first" | cut -d ' ' -f 4- | xargs -d '\n' stat --format '%i %Y %s %n')" = "$first" ] ||
    broken 'pages that were done before the kill were computed again'
[ "$(checksums)" = "$before" ] || broken 'the input changed'
others=$(find "$work/out" "$work/ledger" -mindepth 1 -not -uid "${user%:*}")
[ -z "$others" ] || broken "these do not belong to the user: $others"
says "\"done\": $count," once status --json || broken 'status --json'
once --health || broken 'a finished run is not healthy'
once export --format csv >"$work/pages.csv" || broken 'export'
[ "$(wc -l <"$work/pages.csv")" -gt "$count" ] || broken 'export wrote too few rows'
once report --output /output/report.html >/dev/null || broken 'report'
[ -s "$work/out/report.html" ] || broken 'report wrote nothing'
passed "a run that was killed and stopped completes all $count pages, and computes none of them again"

# Compose: the file as it is, without the GPU and the network that this machine may lack.
if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
elif command -v docker-compose >/dev/null; then
    compose=(docker-compose)
else
    printf 'note: Docker Compose is not here, so docker-compose.yml was not tried\n'
    exit 0
fi
sed -e '/^    deploy:/,$d' -e "s|image: comic-upscale|image: $image|" -e '/build: /d' "$root/docker-compose.yml" \
    >"$work/compose.yml"
printf '    network_mode: none\n' >>"$work/compose.yml"
mkdir -p "$work/out2" "$work/ledger2"
chmod 777 "$work/out2" "$work/ledger2"
up() {
    INPUT=$work/pages OUTPUT=$work/out2 LEDGER=$work/ledger2 USER_ID=${user%:*} GROUP_ID=${user#*:} \
        "${compose[@]}" --file "$work/compose.yml" --project-name "$id" "$@" </dev/null
}
"${compose[@]}" --file "$root/docker-compose.yml" config --quiet || broken 'docker-compose.yml'
up up --no-build --exit-code-from upscale || broken 'docker compose up'
[ "$(find "$work/out2" -name '*.png' -uid "${user%:*}" | wc -l)" = "$count" ] || broken 'pages of docker compose up'
says "$count of $count done" up run -T --rm --no-deps upscale status || broken 'docker compose run upscale status'
up down >/dev/null 2>&1
passed 'Docker Compose does the same'
