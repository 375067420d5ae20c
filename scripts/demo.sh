#!/usr/bin/env bash
# Upscale the example pages and say where to look.
#
# usage: demo.sh FOLDER-OF-PROGRAMS
set -euo pipefail
bin=${1:?usage: demo.sh FOLDER-OF-PROGRAMS}
cd "$(dirname "$0")/.."

if [ -z "${COMIC_UPSCALE_WEIGHTS:-}" ] && [ -d ../shared/weights ]; then
    export COMIC_UPSCALE_WEIGHTS=../shared/weights
fi
"$bin/comic-upscale" run --input examples/pages --scale 2.5
"$bin/comic-upscale" status --job examples/pages-x2.5
echo
echo "Compare examples/pages/ with examples/pages-x2.5/"
