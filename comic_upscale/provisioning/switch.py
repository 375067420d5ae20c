"""The switch that ends a rented machine from inside: at its time, or when it is idle, even if nobody connects again."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

_NEVER = 10**9
"""Seconds: longer than any machine is rented."""

POWER_OFF = "shutdown -h now || sudo -n shutdown -h now"
"""Ends a virtual machine. Its bill ends too if the provider was told so at the launch, or as its terms say."""

_DELETE = """
read_own() { tr '\\0' '\\n' </proc/1/environ 2>/dev/null | sed -n "s/^$1=//p" | head -n 1; }
@ID@=${@ID@:-$(read_own @ID@)}
@KEY@=${@KEY@:-$(read_own @KEY@)}
export @ID@ @KEY@
url=@URL@
if command -v curl >/dev/null 2>&1; then
    curl -fsS --max-time 60 -X DELETE -H "Authorization: Bearer $@KEY@" "$url" && exit 0
fi
for python in python3 /opt/conda/bin/python /opt/pytorch/bin/python; do
    "$python" -c 'import os, sys, urllib.request as u
u.urlopen(u.Request(sys.argv[1], method="DELETE", headers={"Authorization": "Bearer " + os.environ["@KEY@"]}))' \\
        "$url" 2>/dev/null && exit 0
done
exit 1
"""


def delete_command(url: str, *, id_variable: str, key_variable: str) -> str:
    """Return a command with which a container deletes itself through the provider's interface.

    The provider puts the ID and a key that is valid for this container alone into its environment.

    Args:
        url: where to send ``DELETE``; ``{}`` stands for the ID.
        id_variable: the variable with the ID.
        key_variable: the variable with the key.
    """
    address = f'"{url.replace("{}", f"${{{id_variable}}}")}"'
    script = _DELETE.replace("@ID@", id_variable).replace("@KEY@", key_variable).replace("@URL@", address)
    return f"sh -c {shlex.quote(script.strip())}"


def power_off_at_boot(max_hours: float) -> str:
    """Return a script for the first boot of a virtual machine, which then powers off after a number of hours."""
    return f"#!/bin/sh\nshutdown -h +{math.ceil(max_hours * 60)}\n"


def end_in_background(max_hours: float, end_command: str) -> str:
    """Return a script for the start of a container, which then ends itself after a number of hours."""
    seconds = math.ceil(max_hours * 3600)
    loop = f"sleep {seconds}; until {end_command}; do sleep 60; done"
    return f"setsid nohup sh -c {shlex.quote(loop)} </dev/null >/dev/null 2>&1 &\n"


def authorize_key(public_key: str, home: str = "~") -> str:
    """Return a script for the start of a machine that lets a key log in.

    Args:
        public_key: the line for ``authorized_keys``.
        home: the home folder of the user who logs in.
    """
    folder = f"{home}/.ssh"
    return (
        f"mkdir -p {folder} && chmod 700 {folder} && echo {shlex.quote(public_key)} >>{folder}/authorized_keys && "
        f"chmod 600 {folder}/authorized_keys\n"
    )


def watchdog_options(
    *, hours_left: float, idle_minutes: float, folder: str, end_command: str
) -> Sequence[str]:
    """Return the options of ``idle_watchdog.sh`` for a rented machine.

    Args:
        hours_left: hours after which the machine ends in any case.
        idle_minutes: minutes without work after which it ends; 0 for never.
        folder: our folder on the machine.
        end_command: `Provider.end_command`.
    """
    idle = math.ceil(idle_minutes * 60) or _NEVER
    return (
        "--watch", f"{folder}/jobs", "--idle", str(idle), "--grace", str(min(idle, 900)),
        "--ttl", str(max(1, math.ceil(hours_left * 3600))), "--log", f"{folder}/watchdog.log",
        "--then", end_command,
    )  # fmt: skip


def start_watchdog(folder: str, options: Sequence[str]) -> str:
    """Return a script for ``sh`` that stores ``idle_watchdog.sh`` from its input, and starts it detached.

    Args:
        folder: our folder on the machine, absolute or relative to the home folder.
        options: of the watchdog.
    """
    place = shlex.quote(f"{folder}/idle_watchdog.sh")
    return (
        f"set -e\nmkdir -p {shlex.quote(folder)}\ncat >{place}\ncommand -v bash >/dev/null\n"
        f"setsid nohup bash {place} {shlex.join(options)} </dev/null >/dev/null 2>&1 &\n"
        "sleep 1\nkill -0 $!\n"
    )
