#!/usr/bin/env bash
# Send a folder to another machine over SSH, as one stream; run again, it sends only what is not there yet.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: upload.sh [options] FOLDER HOST:DIR

Sends every file below FOLDER to DIR on HOST, which is made. Files that are there with the same size and
time are not sent again, so an upload that broke off is continued by the same command. At the end the files
there are counted and their bytes added up, and compared with those here. DIR is absolute or below the home
folder (~/DIR says the same); HOST is a name, an address or [an IPv6 address], with USER@ in front if need be.
Links to files and folders are followed: what they lead to is sent. One that leads nowhere is named and left out.

  --port N           SSH port
  --identity FILE    private key
  --ssh-config FILE  in place of ~/.ssh/config
  --tar              send by tar even where rsync is on both sides
  --dry-run          say what would be sent
  -h, --help         this

All other settings come from your ~/.ssh/config. Exit codes: 0 all is there, 1 it is not, 2 usage.
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
folder=${names[0]%/}
# ssh takes an IPv6 address without its brackets, rsync with them; nothing else may stand in brackets.
six='^([^@:/]+@)?\[([0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?)\]:(.+)$'
if [[ ${names[1]} =~ $six ]]; then
    host=${names[1]%%]:*}] login=${BASH_REMATCH[1]}${BASH_REMATCH[2]} target=${BASH_REMATCH[4]}
else
    case ${names[1]} in -* | :* | *[][]*:*) fail "${names[1]} names no machine" ;; *:?*) ;; *) fail "${names[1]} is not HOST:DIR" ;; esac
    host=${names[1]%%:*} login=$host target=${names[1]#*:}
fi
case $target in
    \~ | \~/) target=. ;;
    \~/*) target=${target#\~/} ;;
    \~*) fail "$target: a home folder other than your own there needs its whole path" ;;
esac
# The remote shell would take a folder that begins with a dash for an option.
case $target in -*) target=./$target ;; esac
[ -d "$folder" ] || fail "$folder is not a folder" 1

# The remote shell reads the command once more, so names go there quoted.
quoted=$(printf '%s' "$target" | sed "s/'/'\\\\''/g; 1s/^/'/; \$s/\$/'/")
# shellcheck disable=SC2029  # what is expanded here is quoted for there
there() { ssh ${ssh_options[@]+"${ssh_options[@]}"} "$login" "$1"; }

# Size, time in seconds and name of every file, ended by NUL: names may hold anything else.
list_here() { (cd "$folder" && find -L . -type f -printf '%s %Ts %p\0'); }
list_there() {
    there "cd $quoted 2>/dev/null || exit 0; find . -type f -exec stat --printf '%s %Y %n\\0' {} +" \
        </dev/null
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
list_here | sort -z >"$work/here"
(cd "$folder" && find -L . -type l -printf 'left out: %p leads nowhere\n') >&2
list_there | sort -z >"$work/there" || fail "$host cannot be asked what it has" 1
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
    there "mkdir -p $quoted" </dev/null
    sed -z 's/^[0-9]* [0-9]* //' "$work/missing" >"$work/names"
    if [ -z "$tar_only" ] && command -v rsync >/dev/null && there 'command -v rsync >/dev/null' </dev/null; then
        shell=ssh
        for option in ${ssh_options[@]+"${ssh_options[@]}"}; do shell+=" $(printf '%q' "$option")"; done
        rsync --archive --copy-links --partial --from0 --files-from="$work/names" --protect-args -e "$shell" "$folder/" "$host:$target/"
    else
        (cd "$folder" && tar --create --dereference --hard-dereference --file - --null --files-from "$work/names") | there "cd $quoted && tar -xpf -"
    fi
fi

# What was here at the beginning has to be there now.
list_there | sort -z >"$work/there"
lost=$(comm -z -23 "$work/here" "$work/there" | tr -cd '\0' | wc -c)
[ "$lost" -eq 0 ] || fail "$lost files are not there as they are here: run the same command again" 1
echo "all $files files are there"
