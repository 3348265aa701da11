#!/bin/sh
# make test-xla: the tests of TPUs on the real torch_xla, whose devices are the CPU's here, and
# beside them the core tests on the torch that it needs, the lowest that is tested.
#
# Both take seven gigabytes and minutes to install, and no other lane can use them: they are kept in
# ${XDG_CACHE_HOME:-~/.cache}/leyden, in a folder for each state of the pins.
set -eu
cd "$(dirname "$0")/.."

python=$(sh tools/find_python.sh)
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
key=$(cksum < requirements/xla.txt | cut -d" " -f1)
venv=${XDG_CACHE_HOME:-$HOME/.cache}/leyden/xla-$version-$key
install="$venv/bin/python -m pip --disable-pip-version-check install --quiet --quiet"
if [ ! -e "$venv/.made" ]; then
    echo "making $venv (the first time downloads 3 GB)"
    "$python" -m venv --clear "$venv"
    $install -r requirements/xla.txt
    "$venv/bin/python" -c "import torch_xla"  # of a Python without a shared library it cannot be
    touch "$venv/.made"
fi
$install --no-deps --no-build-isolation --editable .  # this tree, whichever was the last

core=$(mktemp)
trap 'rm -f "$core"' EXIT
export OMP_NUM_THREADS=1
# A shell's background jobs ignore Ctrl-C, which some of the tests are about.
"$venv/bin/python" -c '
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, "-m", "pytest", *sys.argv[1:]])
' -q -m "not slow and not xla" \
    tests/engine tests/backends tests/handlers tests/trainer > "$core" 2>&1 &
pid=$!
status=0
# One process does what dozens of tests look at: minutes, where the machine is busy.
PJRT_DEVICE=CPU CPU_NUM_DEVICES=4 "$venv/bin/python" -m pytest -m xla -o faulthandler_timeout=900 --durations=5 \
    tests "$@" \
    || status=1
wait $pid || status=1
echo "--- the core tests on torch $("$venv/bin/python" -c 'import torch; print(torch.__version__)')"
tail -n 40 "$core"
exit $status
