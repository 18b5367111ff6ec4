#!/usr/bin/env bash
# Makes .venv and installs the lock, requirements.txt, when needed; then runs a script in src/, or the main job for a
# configuration. `./run.sh` alone lists them (src/core/commands.py).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$root/.venv/bin/python

# On a CPU torch otherwise hands every large tensor back to the kernel and has it faulted in again: 1.5 times slower.
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=268435456

fail() { echo "error: $1" >&2; exit 2; }

install() {
  if [ -x "$python" ] && cmp -s "$root/requirements.txt" "$root/.venv/requirements.installed"; then return; fi
  local base=${PYTHON:-python3}
  "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "Python 3.11 or newer is needed, and '$base' is not that: set PYTHON=/path/to/python3.12"
  echo "installing requirements.txt into .venv: once, about 5.5 GB with torch's GPU libraries, some minutes" >&2
  "$base" -m venv "$root/.venv"
  local quiet=--quiet
  [ -t 1 ] && quiet=  # a person sees pip's progress bars
  "$python" -m pip install $quiet --disable-pip-version-check -r "$root/requirements.txt"
  cp "$root/requirements.txt" "$root/.venv/requirements.installed"
}

verb=${1:-}
[ $# -gt 0 ] && shift
script=$root/src/${verb//-/_}.py
case $verb in
  "" | -h | --help | help)
    cd "$root/src"; exec "${PYTHON:-python3}" -m core.commands ;;
  test)  # side by side, a file of tests on one core
    install; cd "$root"; export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    exec "$python" -m pytest -q -n auto --maxprocesses 4 --dist loadfile tests "$@" ;;
  lint)
    install; cd "$root"; "$python" -m ruff check . && exec "$python" -m ruff format --check . ;;
  lock)
    install; cd "$root"; "$python" -m pip install --quiet --disable-pip-version-check uv
    exec "$python" -m uv pip compile --quiet --universal --upgrade --python-version 3.11 --no-annotate \
      --custom-compile-command "./run.sh lock" requirements.in -o requirements.txt ;;
  torchrun)  # of one network on several machines; the words behind it are torchrun's own
    install; PYTHONPATH="$root/src" exec "$python" -m net.launch "$@" ;;
  */* | .*) fail "unknown command '$verb'; ./run.sh alone lists them" ;;
esac
if [ -f "$script" ]; then install; exec "$python" "$script" "$@"; fi
[ -f "$root/configs/$verb.yaml" ] && [ "$verb" != demo ] || fail "unknown command '$verb'; ./run.sh alone lists them"
install; exec "$python" "$root/src/main.py" "$verb" "$@"
