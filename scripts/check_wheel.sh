#!/usr/bin/env bash
# Build the wheel, install it with all that it requires into an empty environment, and upscale a page there
# with the model that it brings, offline.
#
# usage: check_wheel.sh PYTHON      PYTHON has the package `build` and hatchling
set -euo pipefail
python=${1:?usage: check_wheel.sh PYTHON}
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
cd "$(dirname "$0")/.."
folder=$(cd "$(mktemp -d)" && pwd -P)
trap 'rm -rf "$folder"' EXIT

"$python" -m build --quiet --wheel --no-isolation --outdir "$folder/dist" .
echo "installing the wheel into an empty environment ..."
"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$folder"/dist/*.whl

cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from PIL import Image

Image.effect_noise((40, 60), 60).convert("RGB").save("page.png")
PY
# No way out, and no file of this user's: what is needed has to be in the wheel.
export HTTPS_PROXY=http://127.0.0.1:9 https_proxy=http://127.0.0.1:9
export XDG_CACHE_HOME=$folder/cache XDG_STATE_HOME=$folder/state
unset COMIC_UPSCALE_WEIGHTS
weights=$("$folder/venv/bin/comic-upscale" models path comic-compact-x3)
case $weights in
    "$folder"/venv/*) ;;
    *) echo "error: the weights are not those of the wheel: $weights" >&2; exit 1 ;;
esac
"$folder/venv/bin/comic-upscale" run --input page.png --scale 2.5 --device cpu --quiet
"$folder/venv/bin/comic-upscale" status --job page-x2.5 | grep --fixed-strings 'comic-compact-x3 (auto)'
"$folder/venv/bin/python" - <<'PY'
from PIL import Image

with Image.open("page-x2.5/page.png") as page:
    assert page.size == (100, 150), page.size
PY
# Its template is data of the package.
"$folder/venv/bin/comic-upscale" report --job page-x2.5
grep --quiet '</html>' page-x2.5/report.html
echo "the wheel installs into an empty environment and upscales a page: $("$folder/venv/bin/comic-upscale" --version)"
