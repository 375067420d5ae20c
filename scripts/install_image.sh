#!/usr/bin/env bash
# Install comic-upscale into its own folder. The Dockerfile runs this script; it is tested without Docker.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: install_image.sh --source DIR --prefix DIR [options]

Makes a virtual environment at the prefix and installs the source, the entry point and weights into it.

  --source DIR     the source tree
  --prefix DIR     folder to install into; it is created
  --python NAME    the Python to use (default: python3)
  --models NAMES   official models to download and check, separated by spaces
  --torch-index URL
                   install PyTorch from this index, such as https://download.pytorch.org/whl/cu128
                   (default: the index of the other packages)
  --packages-of PYTHON
                   use the packages of this Python's environment, and download nothing
  --dry-run        print what would be done
  -h, --help       show this help
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
# An absolute path is never read as an option.
case $source in /*) ;; *) source=$PWD/$source ;; esac
case $prefix in /*) ;; *) prefix=$PWD/$prefix ;; esac
[ -f "$source/pyproject.toml" ] || fail "$source contains no pyproject.toml"

step() {
    printf '+ %s\n' "$*"
    [ -n "$dry_run" ] || "$@"
}

step "$python" -m venv "$prefix"
if [ -n "$parent" ]; then
    if [ -z "$dry_run" ]; then
        packages=$("$parent" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        site=$("$prefix/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        printf '%s\n' "$packages" >"$site/parent.pth"
    fi
    step "$prefix/bin/python" -m pip install --quiet --disable-pip-version-check \
        --no-index --no-deps --no-build-isolation --force-reinstall "$source"
else
    install=("$source/scripts/install_packages.sh" "$prefix/bin/python")
    # In two steps: given both indexes at once, the newer PyTorch of the two would be installed.
    [ -z "$torch_index" ] || step "${install[@]}" --index-url "$torch_index" torch torchvision
    step "${install[@]}" "$source"
fi
step install -m 755 "$source/scripts/entrypoint.sh" "$prefix/bin/entrypoint.sh"
step mkdir -p "$prefix/weights"
set -f
for model in $models; do
    step "$prefix/bin/comic-upscale" models fetch --weights-dir "$prefix/weights" -- "$model"
    step "$prefix/bin/comic-upscale" models verify --weights-dir "$prefix/weights" -- "$model"
done
step "$prefix/bin/comic-upscale" --version
