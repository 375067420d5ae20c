"""A program as a user may have one: makes a picture larger, or misbehaves as its first argument says.

Usage: upscale_tool.py HOW IN OUT FACTOR [WIDTH HEIGHT]
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

how, source, result, factor = sys.argv[1:5]

if how == "slow":
    # A process of its own, which must not outlive it.
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(os.environ["TOOL_NOTES"]).write_text(f"{os.getpid()} {child.pid}", encoding="utf-8")
    sys.stdout.write("half way there\n")
    sys.stdout.flush()
    time.sleep(600)
if how == "fails":
    sys.stderr.write("\x1b[31mout of\tluck\x1b[0m")
    sys.exit(3)
if how == "crashes":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "floods":
    for _ in range(200):
        sys.stderr.write("nonsense " * 10_000)
    sys.stderr.write("\nthe last word\n")
    sys.exit(1)
if how == "nothing":
    sys.stdout.write("did not feel like it\n")
    sys.exit(0)
if how == "text":
    Path(result).write_text("no picture", encoding="utf-8")
    sys.exit(0)
if how == "empty":
    Path(result).write_bytes(b"")
    sys.exit(0)
if how == "here":
    Path("droppings.txt").write_text("left behind", encoding="utf-8")
    Path(os.environ["TOOL_NOTES"]).write_text(f"{Path.cwd()}\n{source}\n{result}", encoding="utf-8")

with Image.open(source) as image:
    assert image.mode == "RGB", image.mode
    size = (image.width * int(factor), image.height * int(factor))
    if how == "exact":
        size = (int(sys.argv[5]), int(sys.argv[6]))
    if how == "larger":
        size = (int(sys.argv[5]) * 2, int(sys.argv[6]) * 2 + 1)
    if how == "odd":
        size = (image.width * 2 + 5, image.height)
    if how == "huge":
        size = (image.width * 40, image.height * 40)
    image.resize(size, Image.Resampling.NEAREST).save(result)
    if how == "half":
        whole = Path(result).read_bytes()
        Path(result).write_bytes(whole[: len(whole) // 2])
