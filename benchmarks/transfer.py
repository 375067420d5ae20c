"""Sending many small files: our stream against `scp` and `rsync`, to a real SSH server on the loopback.

usage: python -m benchmarks.transfer [--files 2000] [--kib 20] [--times 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.machine import facts, write_report
from comic_upscale.execution.remote import SEND_BYTES, SEND_PAGES
from comic_upscale.execution.ssh.address import SshFiles, find_address
from comic_upscale.execution.ssh.connection import Connection
from comic_upscale.execution.ssh.machine import Machine
from comic_upscale.retries import RetryPolicy


class Server:
    """An SSH server on a free port of the loopback, with keys of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
        if program is None:
            raise SystemExit("no sshd here: apt-get install openssh-server openssh-client rsync")
        for name in ("host_key", "id"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True
            )
        shutil.copy(folder / "id.pub", folder / "authorized_keys")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        (folder / "sshd_config").write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\nStrictModes no\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nUsePAM no\nSubsystem sftp internal-sftp\n"
        )
        key = (folder / "host_key.pub").read_text().split()
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {key[0]} {key[1]}\n")
        self.config = folder / "config"
        self.config.write_text(
            f"Host box\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {folder}/id\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {folder}/known_hosts\n"
        )
        self._process = subprocess.Popen([program, "-D", "-f", str(folder / "sshd_config")])
        time.sleep(1)

    def stop(self) -> None:
        """Switch it off."""
        self._process.terminate()
        self._process.wait()


def draw_files(folder: Path, count: int, size: int) -> None:
    """Write files that no compression makes smaller."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:05}.png").write_bytes(os.urandom(size))


def send_ours(server: Server, source: Path, target: Path) -> None:
    """Read, hash, send and check every file, as `remote push` does."""
    address = find_address(
        "box", SshFiles(user="root", config=server.config, known_hosts=server.folder / "known_hosts")
    )
    retry = RetryPolicy(0, lambda seconds: True, lambda reason: None)
    machine = Machine(
        lambda: Connection(address, lambda key: False), retry, base=str(target), python=sys.executable
    )
    machine.open_job("benchmark")
    batch: list[tuple[str, bytes]] = []
    size = 0
    try:
        for path in sorted(source.iterdir()):
            data = path.read_bytes()
            batch.append((f"{hashlib.sha256(data).hexdigest()}.png", data))
            size += len(data)
            if len(batch) >= SEND_PAGES or size >= SEND_BYTES:
                machine.send(batch)
                batch, size = [], 0
        if batch:
            machine.send(batch)
    finally:
        machine.close()


def send_scp(server: Server, source: Path, target: Path) -> None:
    """`scp -r`."""
    subprocess.run(["scp", "-q", "-r", "-F", str(server.config), str(source), f"box:{target}"], check=True)


def send_rsync(server: Server, source: Path, target: Path) -> None:
    """`rsync -a`."""
    shell = f"ssh -F {server.config}"
    subprocess.run(["rsync", "-a", "-e", shell, f"{source}/", f"box:{target}/"], check=True)


def main() -> None:
    """Measure, in turn, and write the figures down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--kib", type=int, default=20)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/transfer-loopback.json"))
    asked = parser.parse_args()
    ways: dict[str, Callable[[Server, Path, Path], None]] = {
        "ours": send_ours, "scp": send_scp, "rsync": send_rsync,
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "ssh").mkdir(mode=0o700)
        server = Server(folder / "ssh")
        try:
            draw_files(folder / "pages", asked.files, asked.kib << 10)
            for turn in range(asked.times):
                for way, send in ways.items():
                    target = folder / f"{way}{turn}"
                    target.mkdir()
                    began = time.perf_counter()
                    send(server, folder / "pages", target)
                    seconds[way].append(time.perf_counter() - began)
                    arrived = sum(
                        1 for path in target.rglob("*.png") if path.stat().st_size == asked.kib << 10
                    )
                    assert arrived == asked.files, f"{way}: {arrived} of {asked.files} arrived"
                    shutil.rmtree(target)
                    print(f"{way}: {seconds[way][-1]:.2f} s")
        finally:
            server.stop()
    middle = {way: round(statistics.median(times), 3) for way, times in seconds.items()}
    ratio = round(min(middle["scp"], middle["rsync"]) / middle["ours"], 3)
    megabytes = asked.files * asked.kib * 1024 / 1e6
    report: dict[str, object] = {
        "what": f"{asked.files} files of {asked.kib} KiB to an SSH server on the loopback, in turn",
        "note": "ours hashes every file on both sides, and connects within the time measured, as the others do",
        **facts(threads=1),
        "load_of_the_last_minutes": [round(load, 1) for load in os.getloadavg()],
        "seconds": {way: [round(value, 3) for value in times] for way, times in seconds.items()},
        "median_seconds": middle,
        "megabytes_a_second": {way: round(megabytes / value, 1) for way, value in middle.items()},
        "ours_over_the_better": ratio,
    }
    write_report(report, asked.json)
    print(f"ours over the better of the two: {ratio}")


if __name__ == "__main__":
    main()
