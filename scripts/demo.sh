#!/usr/bin/env bash
# Upscale the example pages with the bundled model, and print where they are.
set -euo pipefail
usage='usage: demo.sh FOLDER

Upscales examples/pages with the bundled model. FOLDER contains the program comic-upscale, such as .venv/bin.'
case ${1:-} in -h | --help) echo "$usage"; exit 0 ;; esac
bin=${1:?"$usage"}
unset CDPATH
cd "$(dirname "$0")/.."

# With the model named, nothing is downloaded on a machine with a GPU either.
"$bin/comic-upscale" run --input examples/pages --scale 2.5 --model comic-compact-x3
"$bin/comic-upscale" status --job examples/pages-x2.5
echo
echo "Compare examples/pages/ with examples/pages-x2.5/"
