#!/usr/bin/env bash
# Install comic-upscale into a folder of its own: what the Dockerfile does, and what is tested without Docker.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: install_image.sh --source DIR --prefix DIR [options]

Makes a virtual environment at the prefix, installs the source into it, and puts weights and the entry point
beside it.

  --source DIR     the source tree
  --prefix DIR     where to install; made
  --python NAME    the Python to take (python3)
  --models NAMES   official models to fetch and check, with spaces between
  --torch-index URL
                   take PyTorch from this index, such as https://download.pytorch.org/whl/cu128; else from pip's own
  --packages-of PYTHON
                   take what is required from this Python's environment, and download nothing
  --dry-run        say what would be done
  -h, --help       this
HELP
}

fail() { printf 'error: %s\n' "$1" >&2; exit 2; }

source='' prefix='' python=python3 models='' torch_index='' parent='' dry_run=''
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --dry-run) dry_run=yes; shift; continue ;;
        --source | --prefix | --python | --models | --torch-index | --packages-of) [ $# -ge 2 ] || fail "$1 needs a value" ;;
        *) fail "unknown option $1; --help shows them" ;;
    esac
    case $1 in
        --source) source=$2 ;;
        --prefix) prefix=$2 ;;
        --python) python=$2 ;;
        --models) models=$2 ;;
        --torch-index) torch_index=$2 ;;
        --packages-of) parent=$2 ;;
    esac
    shift 2
done
if [ -z "$source" ] || [ -z "$prefix" ]; then fail "needs --source and --prefix; --help shows how"; fi
[ -f "$source/pyproject.toml" ] || fail "$source holds no pyproject.toml"

step() {
    printf '+ %s\n' "$*"
    [ -n "$dry_run" ] || "$@"
}

step "$python" -m venv "$prefix"
pip=("$prefix/bin/python" -m pip install --quiet --disable-pip-version-check)
if [ -n "$parent" ]; then
    if [ -z "$dry_run" ]; then
        packages=$("$parent" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        site=$("$prefix/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        printf '%s\n' "$packages" >"$site/parent.pth"
    fi
    step "${pip[@]}" --no-index --no-deps --no-build-isolation --force-reinstall "$source"
else
    # One after the other: from both at once pip would take whichever is newer.
    [ -z "$torch_index" ] || step "${pip[@]}" --index-url "$torch_index" torch torchvision
    step "${pip[@]}" "$source"
fi
step install -m 755 "$source/scripts/entrypoint.sh" "$prefix/bin/entrypoint.sh"
step mkdir -p "$prefix/weights"
for model in $models; do
    step "$prefix/bin/comic-upscale" models fetch "$model" --weights-dir "$prefix/weights"
    step "$prefix/bin/comic-upscale" models verify "$model" --weights-dir "$prefix/weights"
done
step "$prefix/bin/comic-upscale" --version
