"""The scripts that run on a remote machine: for ``sh``, and for Python.

``@NAME@`` stands for a value, which is quoted.
"""

from __future__ import annotations

import re

# The kernel holds the lock as long as any process of the run lives.
LAUNCH = r"""
cd "$1" || exit 1
shift
exec 9>run.lock
flock -w 5 9 || exit 0
rm -f run.exit
"$@" </dev/null >>run.log 2>&1 &
child=$!
echo "$child" >run.pid.new && mv run.pid.new run.pid
wait "$child"
echo "$?" >run.exit.new && mv run.exit.new run.exit
"""

START = r"""
set -e
mkdir -p @JOB@/input @JOB@/output
cd @JOB@
flock -n run.lock true || exit 0
rm -f run.pid run.exit
cat >launch.sh
AS=comic-upscale-${PWD##*/}
export AS
setsid sh launch.sh @JOB@ sh python.sh @ARGUMENTS@ </dev/null >/dev/null 2>&1 &
tries=0
while [ ! -e run.pid ] && [ ! -e run.exit ] && [ "$tries" -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
"""

# First check whether the run is alive, then list its pages: for a run that has ended the listing is final. It then
# lists all pages, since a clock that was set back makes new pages look old.
POLL = r"""
cd @JOB@ 2>/dev/null || { echo alive=0; echo; exit 0; }
if flock -n run.lock true; then since=0; echo alive=0; else since=@SINCE@; echo alive=1; fi
if [ -f run.exit ]; then echo "exit=$(head -c 8 run.exit)"; fi
echo
if [ -f @LEDGER@ ]; then exec sh python.sh -m comic_upscale remote listing --ledger @LEDGER@ --since "$since"; fi
"""

# Whoever creates the file of a command has the folder for it. Files of other commands are of no more use.
CLAIM = r"""
set -e
mkdir -p @JOB@
cd @JOB@
for file in used_by.*; do [ "$file" = used_by.@COMMAND@ ] || rm -f -- "$file"; done
(set -C && echo @TOKEN@ >used_by.@COMMAND@) 2>/dev/null || true
cat used_by.@COMMAND@
"""

PYTHON = """
XDG_STATE_HOME=@BASE@/state XDG_CACHE_HOME=@BASE@/cache
export XDG_STATE_HOME XDG_CACHE_HOME
exec @PYTHON@ "$@"
"""

STOP = r"""
cd @JOB@ || exit 1
if flock -n run.lock true; then echo idle; exit 0; fi
[ -f run.pid ] && kill -TERM "$(cat run.pid)" 2>/dev/null
if flock -w @SECONDS@ run.lock true; then echo stopped; else echo busy; fi
"""

# A page is accepted only if its content matches the hash in its name. One process reads, hashes and writes: with three
# separate steps the connection would be idle during two of them.
RECEIVE = r"""
import hashlib, os, sys
try:
    os.makedirs(sys.argv[1] + "/input", exist_ok=True)
    os.chdir(sys.argv[1])
    while line := sys.stdin.buffer.readline():
        name, size = line.decode().split()
        data = sys.stdin.buffer.read(int(size))
        if len(data) != int(size):
            sys.exit("the stream ended in the middle of a page")
        if hashlib.sha256(data).hexdigest() != name.partition(".")[0]:
            sys.exit("a page was damaged on the way")
        if os.path.lexists("incoming.part"):
            os.unlink("incoming.part")
        with open("incoming.part", "xb") as file:
            file.write(data)
        os.replace("incoming.part", "input/" + name)
except OSError as error:
    sys.exit(f"a page could not be written: {error.strerror}")
"""

# Only regular files, no larger than expected. A file that does not exist is left out.
SEND = r"""
import os, stat, sys
os.chdir(sys.argv[1] + "/output")
for line in sys.stdin.buffer:
    name, most = line.decode().split()
    try:
        number = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        continue
    status = os.fstat(number)
    if stat.S_ISREG(status.st_mode) and status.st_size <= int(most):
        with open(number, "rb") as file:
            data = file.read(int(most))
        sys.stdout.buffer.write(f"{name} {len(data)}\n".encode() + data)
    else:
        os.close(number)
"""

# A virtual environment of the Python that has PyTorch, with access to its packages, so only missing packages are
# installed. parents.pth is needed where that Python is itself in an environment, as on most rented images.
INSTALL = r"""
set -e
mkdir -p @ENVIRONMENT@
cd @ENVIRONMENT@
if [ -f .ready ]; then exit 0; fi
@PARENT@ -m venv --system-site-packages --without-pip .
@PARENT@ - >parents.txt <<'PY'
import site, sysconfig
paths = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
print("\n".join(dict.fromkeys(paths)))
PY
mv parents.txt "$(bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/parents.pth"
bin/python -m pip --version >/dev/null 2>&1 || bin/python -m ensurepip >/dev/null
@TORCH@
bin/python -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
    --no-deps --force-reinstall @WHEEL@ >&2
bin/python -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
    --upgrade-strategy only-if-needed comic-upscale==@VERSION@ >&2
bin/python -m comic_upscale --version
: >.ready
"""

# Somebody else's folder could hold links under the names of our files.
BASE = r"""
mkdir -p -- @FOLDER@ && cd -- @FOLDER@ || exit 1
set -- $(stat -c '%u %a' .)
if [ "$1" != "$(id -u)" ]; then
    probe=$(mktemp ./owner.XXXXXX) || exit 1
    owner=$(stat -c %u "$probe")
    rm -f "$probe"
    # On some network file systems everything belongs to one user.
    [ "$1" = "$owner" ] || { echo "$PWD belongs to another user there: choose another --remote-dir" >&2; exit 1; }
fi
case $2 in
    *[2367]) echo "everybody may write to $PWD there: choose another --remote-dir" >&2; exit 1 ;;
esac
pwd -P
"""

# What a job will do, in a folder that is removed: a page in both directions, the lock, a detached process.
TRIAL = r"""
set -e
near=@FOLDER@
while [ ! -d "$near" ]; do
    case $near in */*) near=${near%/*}; [ -n "$near" ] || near=/ ;; *) near=. ;; esac
done
folder=$(mktemp -d "$near/.comic-upscale-check.XXXXXX")
trap 'rm -rf "$folder"' EXIT
cd "$folder"
@PYTHON@ -m venv --system-site-packages --without-pip environment </dev/null >&2
environment/bin/python -m pip --version </dev/null >/dev/null 2>&1 ||
    environment/bin/python -c 'import ensurepip' </dev/null
: >run.lock
flock -n run.lock true
setsid sh -c ': >detached' </dev/null
[ -f detached ]
@PYTHON@ -I -S -c @RECEIVE@ "$PWD"
mv input output
ls -1 output | sed 's/$/ @SIZE@/' | @PYTHON@ -I -S -c @SEND@ "$PWD"
"""


def fill(script: str, **values: str) -> str:
    """Return a script in which each ``@NAME@`` is ``values["name"]``. A value may contain ``@NAME@`` itself."""
    return re.sub("@([A-Z0-9_]+)@", lambda match: values[match[1].lower()], script)
