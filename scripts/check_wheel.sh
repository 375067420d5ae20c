#!/usr/bin/env bash
# Install by the image's own steps into an empty folder, with nothing of this user's in sight, and let its entry point
# upscale a page there; then put the built wheel in the place of the package, and upscale a page with the model that it
# brings, offline.
#
# usage: check_wheel.sh PYTHON      PYTHON has the package `build` and hatchling
set -euo pipefail
python=${1:?usage: check_wheel.sh PYTHON}
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
cd "$(dirname "$0")/.."
folder=$(cd "$(mktemp -d)" && pwd -P)
trap 'rm -rf "$folder"' EXIT

"$python" -m build --quiet --wheel --no-isolation --outdir "$folder/dist" .

# What the Dockerfile copies, and nothing else.
grep '^COPY ' Dockerfile | while read -r _ words; do
    target=$folder${words##* }
    for name in ${words% *}; do
        if [ -d "$name" ]; then cp -R "$name" "$target"; else mkdir -p "$target" && cp "$name" "$target"; fi
    done
done
echo "installing by the steps of the image into an empty folder ..."
# No variable of this shell's but where programs are, and how this user reaches packages.
alone=(env -i PATH="$PATH" HOME="$HOME")
while read -r name; do alone+=("$name=${!name}"); done < <(compgen -e | grep -iE '^PIP_|^SSL_|_CA_|_proxy$')
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
# As in the container: a user without rights, who may write into two folders.
chmod 755 "$folder" && chmod 1777 output ledger
user=()
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
    user=(setpriv --reuid 10001 --regid 10001 --clear-groups)
    # A Python below /root is nobody else's; asked through `env`, since a right that was had a moment ago still opens it.
    "${user[@]}" env "$folder/opt/bin/comic-upscale" --version >/dev/null 2>&1 || user=()
fi
entry=("${user[@]}" env -i PATH="$folder/opt/bin:$PATH" HOME=/ XDG_STATE_HOME="$folder/ledger/state"
    COMIC_UPSCALE_INPUT="$folder/input" COMIC_UPSCALE_OUTPUT="$folder/output"
    COMIC_UPSCALE_LEDGER="$folder/ledger/ledger.sqlite3" "$folder/opt/bin/entrypoint.sh")
"${entry[@]}" --model comic-compact-x3 --device cpu --quiet
"${entry[@]}" --health
[ -f output/1.png ]

"$folder/opt/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$folder"/dist/*.whl
# No way out, and no file of this user's: what is needed has to be in the wheel.
export HTTPS_PROXY=http://127.0.0.1:9 https_proxy=http://127.0.0.1:9
export XDG_CACHE_HOME=$folder/cache XDG_STATE_HOME=$folder/state
unset COMIC_UPSCALE_WEIGHTS
weights=$("$folder/opt/bin/comic-upscale" models path comic-compact-x3)
case $weights in
    "$folder"/opt/lib/*) ;;
    *) echo "error: the weights are not those of the wheel: $weights" >&2; exit 1 ;;
esac
"$folder/opt/bin/comic-upscale" run --input page.png --scale 2.5 --device cpu --quiet
"$folder/opt/bin/comic-upscale" status --job page-x2.5 | grep --fixed-strings 'comic-compact-x3 (auto)'
"$folder/opt/bin/python" - <<'PY'
from PIL import Image

with Image.open("page-x2.5/page.png") as page:
    assert page.size == (100, 150), page.size
PY
# Its template is data of the package.
"$folder/opt/bin/comic-upscale" report --job page-x2.5
grep --quiet '</html>' page-x2.5/report.html
echo "the image's steps and the wheel install into an empty folder, and upscale a page: $("$folder/opt/bin/comic-upscale" --version)"
