#!/usr/bin/env bash
# Upscale the example pages with the model that comes with the package, and say where to look.
#
# usage: demo.sh FOLDER-OF-PROGRAMS
set -euo pipefail
bin=${1:?usage: demo.sh FOLDER-OF-PROGRAMS}
cd "$(dirname "$0")/.."

# Named, so that also on a machine with a GPU nothing is downloaded.
"$bin/comic-upscale" run --input examples/pages --scale 2.5 --model comic-compact-x3
"$bin/comic-upscale" status --job examples/pages-x2.5
echo
echo "Compare examples/pages/ with examples/pages-x2.5/"
