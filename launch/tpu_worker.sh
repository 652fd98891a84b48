#!/usr/bin/env bash
# Train on one host of a TPU pod. tpu_pod.sh calls this script over ssh.
#
#   run FLAGS...  start training unless it is running, show its log, wait for it and return its exit
#                 code. Training continues if the connection is lost.
#   status        print one line
#   logs          follow the log
#   stop          make training save and stop, on all hosts
#
# Variables:
#   STATE         directory for the pid, the log and the exit code (default ~/vit_jax_run)
#   PYTHON        Python interpreter (default .venv/bin/python)
set -euo pipefail
cd "$(dirname "$0")/.."
state=${STATE:-$HOME/vit_jax_run}
mkdir -p "$state"
touch "$state/log"

running() { [[ -s $state/pid ]] && grep -qs tpu_worker "/proc/$(< "$state/pid")/cmdline"; }

supervise() {  # supervise FLAGS...: trains, then writes down the exit code
  local code=0
  trap : TERM  # Python receives the signal too, and saves
  "${PYTHON:-.venv/bin/python}" -m vit_jax.main "$@" || code=$?
  echo "$code" > "$state/code"
}

case ${1:-} in
  run)
    shift
    if ! running; then
      rm -f "$state/code"
      printf -- '--- %s\n' "$(date)" >> "$state/log"
      setsid nohup "$PWD/launch/tpu_worker.sh" supervise "$@" >> "$state/log" 2>&1 < /dev/null &
      echo $! > "$state/pid"
    fi
    tail -n 1 --follow --pid="$(< "$state/pid")" "$state/log"
    exit "$(cat "$state/code" 2> /dev/null || echo 1)"  # without a code, it was killed
    ;;
  supervise) shift; supervise "$@";;
  status)
    now=training
    if ! running; then now="ended with $(cat "$state/code" 2> /dev/null || echo '?')"; fi
    echo "$(hostname): $now: $(tail -n 1 "$state/log")"
    ;;
  stop) kill -TERM -- "-$(< "$state/pid")";;
  logs) tail -n 100 --follow "$state/log";;
  *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 2;;
esac
