#!/usr/bin/env bash
# Install packages into an environment: by uv if it is there, and else by pip.
set -euo pipefail
usage='usage: install_packages.sh PYTHON [options of pip install] PACKAGE ...

Installs packages into the environment of a Python: by uv if that environment or PATH has it, which takes a fraction of
the time, and else by pip. pip also takes over where uv fails.'
case ${1:-} in -h | --help) echo "$usage"; exit 0 ;; esac
python=${1:?"$usage"}
shift

uv=$(dirname "$python")/uv
[ -x "$uv" ] || uv=$(command -v uv || true)
# Without an index, pip takes packages from places that uv does not know.
[ -z "${PIP_NO_INDEX:-}" ] || uv=
if [ -n "$uv" ]; then
    # uv reads no settings of pip. The index and the constraints of this machine count for it, too.
    settings=$("$python" -m pip config list 2>/dev/null || true)
    setting() { printf '%s\n' "$settings" | sed -n "s/^global\.$1='\(.*\)'\$/\1/p"; }
    index=${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-$(setting index-url)}}
    # It would count before an index among the options.
    case " $* " in
        *" --index-url "*) ;;
        *) [ -z "$index" ] || export UV_DEFAULT_INDEX=$index ;;
    esac
    # Those of an option would take the place of those of a variable.
    constraints=()
    for file in ${PIP_CONSTRAINT:-$(setting constraint)}; do constraints+=(--constraint "$file"); done
    if "$uv" pip install --quiet --python "$python" ${constraints[@]+"${constraints[@]}"} "$@"; then exit; fi
    echo "note: uv could not install this: pip tries it" >&2
fi
exec "$python" -m pip install --quiet --disable-pip-version-check "$@"
