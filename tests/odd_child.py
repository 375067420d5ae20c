"""A child process for `tests.library.test_helper_process`: does what it is asked, good or bad."""

from __future__ import annotations

import os
import sys
import time

from comic_upscale.library.helper_process import read_message, write_message


def main() -> None:
    while (message := read_message(sys.stdin.buffer)) is not None:
        request = message[0]
        held = None
        if request["do"] == "sleep":
            time.sleep(request["seconds"])
        elif request["do"] == "spin":
            while True:
                pass
        elif request["do"] == "eat":
            held = [b"x" * (1 << 20) for _ in range(request["megabytes"])]
            time.sleep(60)
        elif request["do"] == "end":
            os._exit(request["code"])
        elif request["do"] == "talk":
            os.write(1, b"nonsense" * 100)
            os._exit(0)
        write_message(
            sys.stdout.buffer, {"pid": os.getpid(), "said": request.get("say")}, b"x" * request.get("size", 0)
        )
        del held
