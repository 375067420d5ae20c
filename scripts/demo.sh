#!/usr/bin/env bash
# Upscale the example pages with a model of the package, and print where they are.
set -euo pipefail
usage='usage: demo.sh FOLDER

Upscales examples/pages with a model of the package. FOLDER contains the program comic-upscale, such as .venv/bin.'
case ${1:-} in -h | --help) echo "$usage"; exit 0 ;; esac
bin=${1:?"$usage"}
unset CDPATH
cd "$(dirname "$0")/.."

# The model is named, so that a machine with a GPU makes the same pages.
"$bin/comic-upscale" run --input examples/pages --scale 2.5 --model comic-fast
"$bin/comic-upscale" status --job examples/pages-x2.5
echo
echo "Compare examples/pages/ with examples/pages-x2.5/"
