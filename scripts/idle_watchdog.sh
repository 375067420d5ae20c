#!/usr/bin/env bash
# Watch a rented machine, and run a command when it is idle: stop the container, shut down, destroy.
# Needs no Python, only nvidia-smi, find, awk and /proc.
set -u

usage() {
    cat <<'HELP'
usage: idle_watchdog.sh [options] --then COMMAND
       idle_watchdog.sh [options] --then COMMAND --dry-run

Runs COMMAND with sh when the machine has been idle for --idle seconds, or running for --ttl seconds.
The machine is idle while all of these hold:
  - the GPU is used less than --gpu-below percent
  - no page was finished: nothing changed in the watched folders except heartbeats, locks, logs and reports
  - no transfer is in progress: the network moved less than --net-below
A process that is alive but idle does not count as work.

  --watch DIR        folder in which finished pages appear; can be repeated
                     (default: ~/comic-upscale/jobs)
  --idle SECONDS     run COMMAND after this much idle time (default: 300)
  --grace SECONDS    decide nothing for this long after the start, while images are pulled and weights
                     loaded (default: 600)
  --ttl SECONDS      run COMMAND after this time in any case; 0 for never (default: 0)
  --every SECONDS    time between two checks (default: 15)
  --gpu-below N      percent of GPU use below which the GPU is idle (default: 5)
  --net-below BYTES  bytes per second, both directions together, below which the network is idle (default: 20000)
  --interface NAME   network interface to count; can be repeated (default: all except the loopback)
  --log FILE         write observations and decisions here (default: standard output)
  --retry SECONDS    wait this long before COMMAND is retried after a failure (default: 60)
  --limit SECONDS    end COMMAND after this time and retry it as after a failure (default: 300)
  --then COMMAND     such as: 'shutdown -h now', 'docker stop comic-upscale',
                     'vastai destroy instance 123', 'runpodctl remove pod abc';
                     it gets no input, so a command that asks a question cannot wait for an answer
  --dry-run          print what would be done; do not run COMMAND
  -h, --help         show this help

Exit codes: 0 COMMAND ran and succeeded (or --dry-run decided), 2 usage, 143 stopped by SIGTERM.
HELP
}

fail() { printf 'error: %s\n' "$1" >&2; exit 2; }

# Set the variable $1 to the whole number $3, the value of option $2.
whole() {
    case $3 in '' | *[!0-9]*) fail "$2 takes a whole number, not '$3'" ;; esac
    [ ${#3} -le 15 ] || fail "$2 is too large: $3"
    # A leading zero does not mean octal.
    printf -v "$1" '%d' "$((10#$3))"
}

# Print a path that no program takes for an option or an expression, such as the -delete of find.
as_path() { case $1 in /*) printf '%s' "$1" ;; *) printf './%s' "$1" ;; esac; }

idle=300 grace=600 ttl=0 every=15 gpu_below=5 net_below=20000 retry=60 limit=300 log='' command='' dry_run=''
watched=() interfaces=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --dry-run) dry_run=yes; shift; continue ;;
        --watch | --idle | --grace | --ttl | --every | --gpu-below | --net-below | --interface | --log | --retry | --limit | --then)
            [ $# -ge 2 ] || fail "$1 needs a value" ;;
        *) fail "unknown option $1; --help shows them" ;;
    esac
    case $1 in
        --watch)
            [ -n "$2" ] || fail "--watch needs a folder"
            watched+=("$(as_path "$2")") ;;
        --idle) whole idle "$1" "$2" ;;
        --grace) whole grace "$1" "$2" ;;
        --ttl) whole ttl "$1" "$2" ;;
        --every) whole every "$1" "$2" ;;
        --gpu-below) whole gpu_below "$1" "$2" ;;
        --net-below) whole net_below "$1" "$2" ;;
        --interface) interfaces+=("$2") ;;
        --log) log=$2 ;;
        --retry) whole retry "$1" "$2" ;;
        --limit) whole limit "$1" "$2" ;;
        --then) command=$2 ;;
    esac
    shift 2
done
[ -n "$command" ] || fail "--then is required: there is no default"
[ "$every" -ge 1 ] || fail "--every must be at least 1"
[ "$limit" -ge 1 ] || fail "--limit must be at least 1"
# Without HOME, as in a service of systemd, ~ is the home folder of the user in the list of users.
[ ${#watched[@]} -gt 0 ] || watched=(~/comic-upscale/jobs)
if [ -n "$log" ]; then exec >>"$log" 2>&1 || exit 2; fi

say() { printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$1"; }

# A monotonic clock, so that setting the time does not end the machine. SECONDS follows the wall clock.
uptime_seconds() { awk '{ print int($1) }' /proc/uptime 2>/dev/null || date +%s; }

# Use of the busiest GPU in percent; empty if there is none, or if its driver hangs.
gpu_use() {
    command -v nvidia-smi >/dev/null 2>&1 || return 0
    timeout 20 nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader,nounits 2>/dev/null |
        awk '/^ *[0-9]+/ { if ($1 > most) most = $1; seen = 1 } END { if (seen) print most + 0 }'
}

# The file that this script itself writes: from --log, or from its caller's redirection.
own=()
for each in "/proc/$$/fd/1" "/proc/$$/fd/2"; do
    if [ -e "$each" ]; then own+=(-o -samefile "$each"); fi
done

# A text that changes when a page is finished: the number of files and the time of the newest.
# Files that also change without a page do not count: ledgers (heartbeats change them), locks, logs, reports,
# and part files, because a run that hangs may still have one open.
pages_mark() {
    find -L "${watched[@]}" \( -name 'ledger.sqlite3*' -o -name '*.part' -o -name '*.log' -o -name '*.lock' \
        -o -name '*.pid' -o -name '*.html' -o -name nohup.out ${own[@]+"${own[@]}"} \) -prune \
        -o -type f -printf '%T@\n' 2>/dev/null |
        awk '{ count++; if ($1 > newest) newest = $1 } END { printf "%d/%.3f", count, newest }'
}

# Pages that are done in the ledgers, if sqlite3 is installed. This also counts pages that were removed after fetching.
ledger_mark() {
    command -v sqlite3 >/dev/null 2>&1 || return 0
    find -L "${watched[@]}" -name ledger.sqlite3 -type f -print0 2>/dev/null | while IFS= read -r -d '' ledger; do
        timeout 20 sqlite3 -readonly "$ledger" \
            "select count(*) || ':' || coalesce(max(finished_at), '') from pages where state in ('done', 'failed')" \
            2>/dev/null
    done | tr '\n' ' '
}

# Bytes sent and received over the network so far.
net_bytes() {
    awk -v wanted=" ${interfaces[*]:-} " '
        /:/ {
            sub(/:/, " ")
            if ($1 == "lo" && wanted !~ / lo /) next
            if (wanted ~ /[^ ]/ && index(wanted, " " $1 " ") == 0) next
            sum += $2 + $10
        }
        END { printf "%.0f", sum }' /proc/net/dev 2>/dev/null || echo 0
}

# Run COMMAND in its own process group, so that all of it can be ended. It has no input.
run_command() {
    set -m
    sh -c "$command" </dev/null &
    local pid=$! left=$limit
    set +m
    while kill -0 "$pid" 2>/dev/null; do
        if [ "$left" -le 0 ]; then
            say "the command took longer than $limit s and is ended"
            kill -TERM -- "-$pid" 2>/dev/null
            sleep 2
            kill -KILL -- "-$pid" 2>/dev/null
            wait "$pid" 2>/dev/null
            return 1
        fi
        sleep 1
        left=$((left - 1))
    done
    wait "$pid"
}

act() {
    say "$1"
    if [ -n "$dry_run" ]; then
        say "would run: $command"
        exit 0
    fi
    # A machine that is no longer watched must end, so a failed command is retried.
    while :; do
        say "running: $command"
        if run_command; then say "the command succeeded"; exit 0; fi
        say "the command failed; retrying in $retry s"
        sleep "$retry"
    done
}

trap 'say "stopped by a signal"; exit 143' TERM INT

began=$(uptime_seconds)
last=$began
bytes=$(net_bytes)
pages="$(pages_mark) $(ledger_mark)"
looked=$began
say "watching ${watched[*]}: idle $idle s, grace $grace s, time to live $ttl s, then: $command"
while :; do
    sleep "$every"
    now=$(uptime_seconds)
    if [ "$ttl" -gt 0 ] && [ $((now - began)) -ge "$ttl" ]; then act "the time to live of $ttl s has ended"; fi

    why=''
    gpu=$(gpu_use)
    if [ -n "$gpu" ] && [ "$gpu" -ge "$gpu_below" ]; then why="GPU $gpu %"; fi
    new_pages="$(pages_mark) $(ledger_mark)"
    if [ "$new_pages" != "$pages" ]; then why="${why:+$why, }pages"; fi
    pages=$new_pages
    new_bytes=$(net_bytes)
    passed=$((now - looked))
    [ "$passed" -ge 1 ] || passed=1
    rate=$(((new_bytes - bytes) / passed))
    if [ "$rate" -ge "$net_below" ]; then why="${why:+$why, }network $rate B/s"; fi
    bytes=$new_bytes
    looked=$now

    if [ -n "$why" ]; then
        last=$now
        say "busy: $why"
        continue
    fi
    still=$((now - last))
    say "idle for $still s (GPU ${gpu:-unknown}, network $rate B/s)"
    if [ $((now - began)) -lt "$grace" ]; then continue; fi
    if [ "$still" -ge "$idle" ]; then act "idle for $still s"; fi
done
