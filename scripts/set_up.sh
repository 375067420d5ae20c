#!/usr/bin/env bash
# Make the development environment: an editable install, the tools, and the official program for the parity test where
# it can be installed (Python 3.11 and 3.12; its last release does not build on 3.13).
set -euo pipefail
usage='usage: set_up.sh FOLDER

Makes a virtual environment in FOLDER with comic-upscale (editable) and its development tools. Set PYTHON to the
interpreter to use, 3.11 or newer (default: python3).'
case ${1:-} in -h | --help) echo "$usage"; exit 0 ;; esac
folder=${1:?"$usage"}
# A name that begins with a dash is no option.
case $folder in /*) ;; *) folder=./$folder ;; esac
python=${PYTHON:-python3}

"$python" - <<'PY' || { echo "error: $python is older than Python 3.11: set PYTHON to a newer one" >&2; exit 1; }
import sys
sys.exit(sys.version_info < (3, 11))
PY

"$python" -m venv "$folder"
# Modules are compiled when they are first imported. Most of the several thousand of PyTorch never are.
export PIP_NO_COMPILE=1
"$folder/bin/python" -m pip install --quiet --upgrade "pip>=25.1"
# Several times quicker than pip, which does its work where it cannot be had.
"$folder/bin/python" -m pip install --quiet uv || echo "note: uv could not be installed: pip takes longer" >&2
install() { scripts/install_packages.sh "$folder/bin/python" --constraint constraints.txt "$@"; }

# PyTorch as users get it, from the plain requirement: several GB with the CUDA libraries on Linux.
echo "installing comic-upscale and its tools into $folder (several GB, some minutes) ..."
install --editable '.[server,postgres,s3,ray,imagen,flux]' --group dev

if "$folder/bin/python" -c 'import sys; sys.exit(sys.version_info >= (3, 13))'; then
    install --editable '.[realesrgan]' ||
        echo "note: the official program could not be installed: its parity test will be skipped" >&2
fi
