#!/usr/bin/env bash
# Watch a rented machine, and run a command once it does nothing: stop the container, shut down, destroy.
# Needs no Python: nvidia-smi, find, awk and /proc are all that it asks.
set -u

usage() {
    cat <<'HELP'
usage: idle_watchdog.sh [options] --then COMMAND
       idle_watchdog.sh [options] --then COMMAND --dry-run

Runs COMMAND (by sh) once the machine has been idle for so long, or has lived for so long.
Idle is: the GPU is used less than --gpu-below percent, and no page was finished (nothing changed in the
folders watched but heartbeats, locks, logs and reports), and no transfer went on (the network moved less than
--net-below).
A process that is alive and does nothing does not count as work.

  --watch DIR        a folder whose files tell of finished pages; may be given more than once
                     (left out: ~/comic-upscale/jobs)
  --idle SECONDS     how long all of that has to hold (300)
  --grace SECONDS    how long after the start nothing is decided: images are pulled, weights loaded (600)
  --ttl SECONDS      run COMMAND after so long whatever happens; 0 for never (0)
  --every SECONDS    how often it is looked (15)
  --gpu-below N      percent (5)
  --net-below BYTES  a second, in both directions together, without the loopback (20000)
  --interface NAME   the network's interface; may be given more than once (all but the loopback)
  --log FILE         where to write what is seen and decided (standard output)
  --retry SECONDS    how often COMMAND is tried again where it fails (60)
  --limit SECONDS    how long COMMAND may take; then it is ended, and tried again like one that failed (300)
  --then COMMAND     such as: 'shutdown -h now', 'docker stop comic-upscale',
                     'vastai destroy instance 123', 'runpodctl remove pod abc';
                     it has no input, so that one that asks something gets no answer instead of waiting for it
  --dry-run          say what would be done, and do not run COMMAND
  -h, --help         this

Exit codes: 0 COMMAND ran and succeeded (or --dry-run decided), 2 usage, 143 stopped by SIGTERM.
HELP
}

fail() { printf 'error: %s\n' "$1" >&2; exit 2; }
whole() { case $2 in '' | *[!0-9]*) fail "$1 takes a whole number, not '$2'" ;; esac; }

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
        --watch) watched+=("$2") ;;
        --idle) whole "$1" "$2"; idle=$2 ;;
        --grace) whole "$1" "$2"; grace=$2 ;;
        --ttl) whole "$1" "$2"; ttl=$2 ;;
        --every) whole "$1" "$2"; every=$2 ;;
        --gpu-below) whole "$1" "$2"; gpu_below=$2 ;;
        --net-below) whole "$1" "$2"; net_below=$2 ;;
        --interface) interfaces+=("$2") ;;
        --log) log=$2 ;;
        --retry) whole "$1" "$2"; retry=$2 ;;
        --limit) whole "$1" "$2"; limit=$2 ;;
        --then) command=$2 ;;
    esac
    shift 2
done
[ -n "$command" ] || fail "--then says what to do: there is no default"
[ "$every" -ge 1 ] || fail "--every must be at least 1"
[ "$limit" -ge 1 ] || fail "--limit must be at least 1"
[ ${#watched[@]} -gt 0 ] || watched=("$HOME/comic-upscale/jobs")
if [ -n "$log" ]; then exec >>"$log" 2>&1 || exit 2; fi

say() { printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$1"; }

# Seconds that only ever grow: a clock that is set does not end the machine. SECONDS would follow it.
uptime_seconds() { awk '{ print int($1) }' /proc/uptime 2>/dev/null || date +%s; }

# The busiest card, in percent; nothing where there is none, or its driver hangs.
gpu_use() {
    command -v nvidia-smi >/dev/null 2>&1 || return 0
    timeout 20 nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader,nounits 2>/dev/null |
        awk '/^ *[0-9]+/ { if ($1 > most) most = $1; seen = 1 } END { if (seen) print most + 0 }'
}

# Where this script writes itself, whatever it is called: with --log, or as its caller redirected it.
own=()
for each in "/proc/$$/fd/1" "/proc/$$/fd/2"; do
    if [ -e "$each" ]; then own+=(-o -samefile "$each"); fi
done

# A number that changes when a page is finished: how many files there are and when the newest changed.
# Not among them is what also changes without a page: ledgers (heartbeats alone change those), locks, logs, reports,
# and part files, since a run that hangs may still have one open.
pages_mark() {
    find -L "${watched[@]}" \( -name 'ledger.sqlite3*' -o -name '*.part' -o -name '*.log' -o -name '*.lock' \
        -o -name '*.pid' -o -name '*.html' -o -name nohup.out ${own[@]+"${own[@]}"} \) -prune \
        -o -type f -printf '%T@\n' 2>/dev/null |
        awk '{ count++; if ($1 > newest) newest = $1 } END { printf "%d/%.3f", count, newest }'
}

# Pages that ledgers call done, where sqlite3 is there to ask: counts also pages that are removed once fetched.
ledger_mark() {
    command -v sqlite3 >/dev/null 2>&1 || return 0
    find -L "${watched[@]}" -name ledger.sqlite3 -type f 2>/dev/null | while IFS= read -r ledger; do
        timeout 20 sqlite3 -readonly "$ledger" \
            "select count(*) || ':' || coalesce(max(finished_at), '') from pages where state in ('done', 'failed')" \
            2>/dev/null
    done | tr '\n' ' '
}

# Bytes that went over the network so far, in both directions.
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

# COMMAND in a process group of its own, so that all of it can be ended; nobody answers what it may ask.
run_command() {
    set -m
    sh -c "$command" </dev/null &
    local pid=$! left=$limit
    set +m
    while kill -0 "$pid" 2>/dev/null; do
        if [ "$left" -le 0 ]; then
            say "it took longer than $limit s, and is ended"
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
    # A machine that nobody watches any more must end: whatever fails is tried again.
    while :; do
        say "running: $command"
        if run_command; then say "it succeeded"; exit 0; fi
        say "it failed; again in $retry s"
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
    if [ "$ttl" -gt 0 ] && [ $((now - began)) -ge "$ttl" ]; then act "the time to live of $ttl s is over"; fi

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
