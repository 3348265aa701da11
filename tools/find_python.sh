#!/bin/sh
# Prints an interpreter that leyden runs on: $PYTHON if it is set, else the first one that fits.
# A name on the PATH proves nothing (version managers leave shims that fail), so each one is asked.

fits() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
        2>/dev/null
}

for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
    if fits "$candidate"; then
        command -v "$candidate"
        exit 0
    fi
done

# The first line only: a shim that fails has a lot to say.
name=${PYTHON:-python3}
found=$("$name" --version 2>&1 | head -n 1)
echo "No Python for leyden: it needs 3.10, 3.11, 3.12 or 3.13 with the venv module." >&2
echo "$name says: ${found:-nothing}" >&2
echo "Install one (on Debian and Ubuntu python3-venv too), or name it: make PYTHON=/opt/bin/python3.12" >&2
exit 1
