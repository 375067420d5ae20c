#!/usr/bin/env bash
# Send a folder to a remote machine over SSH as one stream. Run again, it sends only the missing files.
set -euo pipefail
# With it, cd could go to another folder of the same name.
unset CDPATH

usage() {
    cat <<'HELP'
usage: upload.sh [options] FOLDER HOST:DIR

Sends every file below FOLDER to DIR on HOST. DIR is created. Files that HOST already has with the same size
and time are not sent again, so the same command continues an interrupted upload. At the end, size and time of
every file are compared on both machines.
DIR is absolute or relative to the home folder (~/DIR means the same). HOST is a name, an address or
[an IPv6 address], if needed with USER@ in front.
Links are followed, and the files and folders that they point to are sent. Broken links are listed and left out.

  --port N           SSH port
  --identity FILE    private key
  --ssh-config FILE  use this file instead of ~/.ssh/config
  --tar              use tar even if both machines have rsync
  --dry-run          print what would be sent
  -h, --help         show this help

All other settings come from your ~/.ssh/config. Exit codes: 0 all files arrived, 1 some did not, 2 usage.
HELP
}

fail() { printf 'error: %s\n' "$1" >&2; exit "${2:-2}"; }

ssh_options=() dry_run='' tar_only='' names=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --dry-run) dry_run=yes ;;
        --tar) tar_only=yes ;;
        --port) [ $# -ge 2 ] || fail "$1 needs a value"; ssh_options+=(-p "$2"); shift ;;
        --identity) [ $# -ge 2 ] || fail "$1 needs a value"; ssh_options+=(-i "$2"); shift ;;
        --ssh-config) [ $# -ge 2 ] || fail "$1 needs a value"; ssh_options+=(-F "$2"); shift ;;
        -*) fail "unknown option $1; --help shows them" ;;
        *) names+=("$1") ;;
    esac
    shift
done
[ ${#names[@]} -eq 2 ] || fail "needs FOLDER and HOST:DIR; --help shows how"
# A relative name gets ./ in front: rsync reads NAME: as a host.
case ${names[0]} in /*) folder=${names[0]} ;; *) folder=./${names[0]} ;; esac
folder=${folder%/}
# ssh would read it as an option, also with an IPv6 address.
case ${names[1]} in -*) fail "${names[1]} is not HOST:DIR" ;; esac
# ssh takes an IPv6 address without brackets, rsync with brackets. Nothing else may be in brackets.
six='^([^@:/]+@)?\[([0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?)\]:(.+)$'
if [[ ${names[1]} =~ $six ]]; then
    host=${names[1]%%]:*}] login=${BASH_REMATCH[1]}${BASH_REMATCH[2]} target=${BASH_REMATCH[4]}
else
    case ${names[1]} in :* | *[][]*:*) fail "${names[1]} is not HOST:DIR" ;; *:?*) ;; *) fail "${names[1]} is not HOST:DIR" ;; esac
    host=${names[1]%%:*} login=$host target=${names[1]#*:}
fi
case $target in
    \~ | \~/) target=. ;;
    \~/*) target=${target#\~/} ;;
    \~*) fail "$target: give the absolute path of another user's home folder" ;;
esac
# The remote shell would read a folder name that begins with a dash as an option.
case $target in -*) target=./$target ;; esac
[ -d "$folder" ] || fail "$folder is not a folder" 1

# The scripts below are for `sh`, so names are quoted for it.
quoted=$(printf '%s' "$target" | sed "s/'/'\\\\''/g; 1s/^/'/; \$s/\$/'/")
marker=upload-$RANDOM$RANDOM$RANDOM$$

# The login shell may be any, and its start-up file may print something. So it only starts `sh`, which reads its script
# from standard input, and what comes before the marker is dropped. Standard input goes on after the script.
in_clean_shell() {
    local script bytes
    script=$(printf 'cd; printf "%%s\\n" %s\n%s' "$marker" "$1")
    bytes=$(($(printf '%s' "$script" | wc -c)))
    # shellcheck disable=SC2029  # the number is meant to be expanded here
    { printf '%s' "$script"; cat; } | ssh ${ssh_options[@]+"${ssh_options[@]}"} -- "$login" \
        "exec /bin/sh -c 'eval \"\$(dd bs=1 count=$bytes 2>/dev/null)\"'"
}
# NUL ends records, so the marker is looked for by lines that may contain NUL.
after_marker() { LC_ALL=C sed -n "0,/^$marker\$/!p"; }
on_host() { in_clean_shell "$1" | after_marker; }

# Size, time in seconds and name of every file, each ended by NUL: names may contain anything else.
list_here() { (cd "$folder" && find -L . -type f -printf '%s %Ts %p\0'); }
list_remote() {
    on_host "cd $quoted 2>/dev/null || exit 0; find . -type f -exec stat --printf '%s %Y %n\\0' {} +" \
        </dev/null
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
list_here | sort -z >"$work/here"
(cd "$folder" && find -L . -type l -printf 'left out: %p is a broken link\n') >&2
list_remote | sort -z >"$work/there" || fail "the files on $host cannot be listed" 1
comm -z -23 "$work/here" "$work/there" >"$work/missing"
files=$(tr -cd '\0' <"$work/here" | wc -c)
missing=$(tr -cd '\0' <"$work/missing" | wc -c)
bytes=$(tr '\0' '\n' <"$work/missing" | awk '$1 ~ /^[0-9]+$/ { sum += $1 } END { printf "%.0f", sum }')
echo "$files files, $missing to send, $bytes bytes"
if [ -n "$dry_run" ]; then
    tr '\0' '\n' <"$work/missing" | sed 's/^[0-9]* [0-9]* /  /'
    exit 0
fi

if [ "$missing" -gt 0 ]; then
    on_host "mkdir -p $quoted" </dev/null
    sed -z 's/^[0-9]* [0-9]* //' "$work/missing" >"$work/names"
    # rsync speaks through the login shell, which must be silent.
    if [ -z "$tar_only" ] && command -v rsync >/dev/null && on_host 'command -v rsync >/dev/null' </dev/null &&
        [ "$(in_clean_shell : </dev/null | head -c 200)" = "$marker" ]; then
        shell=ssh
        for option in ${ssh_options[@]+"${ssh_options[@]}"}; do shell+=" $(printf '%q' "$option")"; done
        rsync --archive --copy-links --partial --from0 --files-from="$work/names" --protect-args -e "$shell" "$folder/" "$host:$target/"
    else
        (cd "$folder" && tar --create --dereference --hard-dereference --file - --null --files-from "$work/names") |
            on_host "cd $quoted && tar -xpf -"
    fi
fi

# Every file that was here at the beginning must now be on the remote machine.
list_remote | sort -z >"$work/there"
lost=$(comm -z -23 "$work/here" "$work/there" | tr -cd '\0' | wc -c)
[ "$lost" -eq 0 ] || fail "$lost files are missing on $host or differ: run the same command again" 1
echo "all $files files are on $host"
