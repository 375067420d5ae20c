#!/usr/bin/env bash
# Build the wheel, install it with all that it requires into an empty environment, and upscale a page there.
#
# usage: check_wheel.sh PYTHON      PYTHON has the package `build` and hatchling
set -euo pipefail
python=${1:?usage: check_wheel.sh PYTHON}
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$python" -m build --quiet --wheel --no-isolation --outdir "$folder/dist" .
echo "installing the wheel into an empty environment ..."
"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$folder"/dist/*.whl

cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import torch
from PIL import Image
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact

state = Compact(num_feat=16, num_conv=2, upscale=4).state_dict()
save_file({name: tensor.contiguous() for name, tensor in state.items()}, "small.safetensors")
Image.effect_noise((40, 60), 60).convert("RGB").save("page.png")
PY
"$folder/venv/bin/comic-upscale" run --input page.png --model ./small.safetensors --scale 2.5 --device cpu --quiet
"$folder/venv/bin/python" - <<'PY'
from PIL import Image

with Image.open("page-x2.5/page.png") as page:
    assert page.size == (100, 150), page.size
PY
echo "the wheel installs into an empty environment and upscales a page: $("$folder/venv/bin/comic-upscale" --version)"
