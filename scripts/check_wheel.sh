#!/usr/bin/env bash
# Install into an empty folder by the steps of the image, without this user's files, and upscale a page with its entry
# point. Then replace the package by the built wheel, and upscale a page offline with the bundled model.
set -euo pipefail
usage='usage: check_wheel.sh PYTHON

Checks that the wheel and the steps of the image install into an empty folder and upscale a page. PYTHON is an
interpreter with the packages build and hatchling.'
case ${1:-} in -h | --help) echo "$usage"; exit 0 ;; esac
python=${1:?usage: check_wheel.sh PYTHON}
unset CDPATH
python=$(cd -- "$(dirname -- "$python")" && pwd)/$(basename -- "$python")
cd "$(dirname "$0")/.."
folder=$(cd "$(mktemp -d)" && pwd -P)
trap 'rm -rf "$folder"' EXIT

"$python" -m build --quiet --wheel --no-isolation --outdir "$folder/dist" .

# Copy exactly what the Dockerfile copies.
grep '^COPY ' Dockerfile | while read -r _ words; do
    target=$folder${words##* }
    for name in ${words% *}; do
        if [ -d "$name" ]; then cp -R "$name" "$target"; else mkdir -p "$target" && cp "$name" "$target"; fi
    done
done
echo "installing by the steps of the image into an empty folder ..."
# Pass no variable of this shell except the paths of programs, such as uv, and the access to packages.
# Most of the several thousand modules of PyTorch are not imported here, so they are not compiled either.
alone=(env -i PATH="$(dirname "$python"):$PATH" HOME="$HOME" PIP_NO_COMPILE=1)
while read -r name; do alone+=("$name=${!name}"); done < <(compgen -e | grep -iE '^PIP_|^UV_|^SSL_|_CA_|_proxy$')
"${alone[@]}" "$folder/build/scripts/install_image.sh" --source "$folder/build" --prefix "$folder/opt" \
    --python "$python"
rm -rf "$folder/build"

cd "$folder"
mkdir input output ledger
"$folder/opt/bin/python" - <<'PY'
from PIL import Image

Image.effect_noise((40, 60), 60).convert("RGB").save("page.png")
Image.effect_noise((40, 60), 60).convert("RGB").save("input/1.png")
PY
# As in the container: an unprivileged user who may write into two folders.
chmod 755 "$folder" && chmod 1777 output ledger
user=()
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
    user=(setpriv --reuid 10001 --regid 10001 --clear-groups)
    # Other users cannot run a Python below /root. `env` makes sure that the check runs without root's capabilities.
    "${user[@]}" env "$folder/opt/bin/comic-upscale" --version >/dev/null 2>&1 || user=()
fi
state=$folder/ledger/state
entry() {
    ${user[@]+"${user[@]}"} env -i PATH="$folder/opt/bin:$PATH" HOME=/ XDG_STATE_HOME="$state" \
        COMIC_UPSCALE_INPUT="$folder/input" COMIC_UPSCALE_OUTPUT="$folder/output" \
        COMIC_UPSCALE_LEDGER="$folder/ledger/ledger.sqlite3" "$folder/opt/bin/entrypoint.sh" "$@"
}
if entry --health; then echo "error: a container that has done nothing is healthy" >&2; exit 1; fi
entry --model comic-compact-x3 --device cpu --quiet
entry --health
[ -f output/1.png ]
# A new container has a new state folder, and finds the ledger by its variable.
state=$folder/ledger/other entry status | grep --fixed-strings '1 of 1 done'
entry watchdog --help | grep --quiet '^usage: idle_watchdog.sh'

"$folder/opt/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$folder"/dist/*.whl
# No network and no files of this user: everything needed must be in the wheel.
export HTTPS_PROXY=http://127.0.0.1:9 https_proxy=http://127.0.0.1:9
export XDG_CACHE_HOME=$folder/cache XDG_STATE_HOME=$folder/state
unset COMIC_UPSCALE_WEIGHTS
weights=$("$folder/opt/bin/comic-upscale" models path comic-compact-x3)
case $weights in
    "$folder"/opt/lib/*) ;;
    *) echo "error: these are not the weights of the wheel: $weights" >&2; exit 1 ;;
esac
"$folder/opt/bin/comic-upscale" run --input page.png --scale 2.5 --device cpu --quiet
"$folder/opt/bin/comic-upscale" status --job page-x2.5 | grep --fixed-strings 'comic-fast-x3 (auto)'
"$folder/opt/bin/python" - <<'PY'
from PIL import Image

with Image.open("page-x2.5/page.png") as page:
    assert page.size == (100, 150), page.size
PY
# The report's template is package data.
"$folder/opt/bin/comic-upscale" report --job page-x2.5
grep --quiet '</html>' page-x2.5/report.html
echo "the steps of the image and the wheel install into an empty folder and upscale a page: $("$folder/opt/bin/comic-upscale" --version)"
