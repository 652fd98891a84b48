#!/usr/bin/env bash
# On each host of a TPU pod, called by tpu_pod.sh over ssh.
#
#   run FLAGS...  starts training unless it goes on already, shows its log, waits for its end and
#                 gives its exit code; training does not need the connection
#   status        one line
#   logs          follows the log
#   stop          asks training to save and stop, on all hosts
#
# Variables: STATE=~/vit_jax_run (pid, log and exit code), PYTHON (default: .venv/bin/python).
set -euo pipefail
cd "$(dirname "$0")/.."
state=${STATE:-$HOME/vit_jax_run}
mkdir -p "$state"
touch "$state/log"

running() { [[ -s $state/pid ]] && grep -qs tpu_worker "/proc/$(< "$state/pid")/cmdline"; }

supervise() {  # supervise FLAGS...: trains, and notes the exit code
  local code=0
  trap : TERM  # it reaches python, too, which saves
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
    exit "$(cat "$state/code" 2> /dev/null || echo 1)"  # no code: it was killed
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
