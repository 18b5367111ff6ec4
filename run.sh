#!/usr/bin/env bash
# Makes .venv and installs the lock, requirements.txt, when needed, then runs one command. `./run.sh` alone lists them.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$root/.venv/bin/python

# On a CPU torch otherwise hands every large tensor back to the kernel and has it faulted in again: 1.5 times slower.
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=268435456

usage() {
  cat <<EOF
./run.sh modelA | modelB [--data DIR] [--demo] [key=value ...]   train, tune, predict, write submissions/<name>.csv; resumes
./run.sh padchest [--data DIR] [--demo] [key=value ...]          the multi-label study: train, evaluate with intervals, by patient
./run.sh train CONFIG [--data DIR] [--demo] [key=value ...]      train only; leaves runs/<name>/val_logits.npz
./run.sh predict RUN [--data DIR]                                logits of the test images: RUN/test_logits.npz
./run.sh evaluate RUN ...                                        the whole validation report of a run; several runs are compared
./run.sh compare A B ... [--metric M] [--paired] [--table9 CSV]   runs, 'groups-*' or published 0.741±0.007,3: Welch's test, paired bootstrap
./run.sh experiment FILE [--data DIR] [--demo] [--toy] [--part I/N] [key=value ...] [--collect DIR ...]   rows × seeds to a table; resumes
./run.sh report RUN [--labels NAME,NAME]                         pictures to print and a page with everything: RUN/figures/, RUN/report.html
./run.sh explain RUN [--labels A,B] [--number N] [--masks DIR]   Grad-CAM over chosen images: RUN/figures/explain.png
./run.sh probe RUN [--data DIR]                                  the study's baseline: logistic regression on frozen features
./run.sh tune VAL.npz ... --out calibration.json                 fit the decision rules, print them beside the constant answer
./run.sh decide TEST.npz ... --calibration FILE --rule RULE --out CSV [--test test.csv] [--counts FILE | --estimate-counts]
./run.sh score RUN | SUBMISSION.csv TRUTH.csv [--json FILE]      offline score, per class
./run.sh download | weights CONFIG [--publish]                   the competition's data; pretrained weights into a file
./run.sh push CONFIG [--hours H] [--resume] [key=value ...]      run it as a Kaggle kernel; then status CONFIG [--wait], fetch CONFIG
./run.sh submit CSV -m MESSAGE | submissions                     hand in a checked submission; list yours
./run.sh doctor                                                  what is here and what is missing
./run.sh make-demo DIR [--images N] [--size PIXELS] [--seed S] [--layout padchest]   a synthetic data set
./run.sh worlds [--seeds N]                                      every decision rule in worlds whose best decision is known
./run.sh test | lint | lock                                      the tests; ruff; requirements.txt made anew from requirements.in
EOF
}

install() {
  if [ -x "$python" ] && cmp -s "$root/requirements.txt" "$root/.venv/requirements.installed"; then return; fi
  local base=${PYTHON:-python3}
  "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
    echo "error: Python 3.11 or newer is needed, and '$base' is not that: set PYTHON=/path/to/python3.12" >&2
    exit 2
  }
  echo "installing requirements.txt into .venv: once, about 5.5 GB with torch's GPU libraries, some minutes" >&2
  "$base" -m venv "$root/.venv"
  local quiet=--quiet
  [ -t 1 ] && quiet=  # a person sees pip's progress bars
  "$python" -m pip install $quiet --disable-pip-version-check -r "$root/requirements.txt"
  cp "$root/requirements.txt" "$root/.venv/requirements.installed"
}

verb=${1:-}
[ $# -gt 0 ] && shift
case $verb in
  "" | -h | --help | help) usage ;;
  train | predict | tune | decide | score | evaluate | compare | experiment | report | explain | probe | worlds | doctor) install; exec "$python" "$root/src/$verb.py" "$@" ;;
  download | weights | push | status | fetch | submit | submissions) install; exec "$python" "$root/src/kernel.py" "$verb" "$@" ;;
  make-demo) install; exec "$python" "$root/src/make_demo.py" "$@" ;;
  lint)
    install; cd "$root"; "$python" -m ruff check . && exec "$python" -m ruff format --check . ;;
  lock)
    install; cd "$root"; "$python" -m pip install --quiet --disable-pip-version-check uv
    exec "$python" -m uv pip compile --quiet --universal --upgrade --python-version 3.11 --no-annotate --custom-compile-command "./run.sh lock" requirements.in -o requirements.txt ;;
  test)  # side by side, a file of tests on one core
    install; cd "$root"
    OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} exec "$python" -m pytest -q -n auto --maxprocesses 4 --dist loadfile tests "$@" ;;
  *)
    if [ ! -f "$root/configs/$verb.yaml" ] || [ "$verb" = demo ]; then
      echo "error: unknown command '$verb'; ./run.sh alone lists them" >&2
      exit 2
    fi
    install; exec "$python" "$root/src/main.py" "$verb" "$@" ;;
esac
