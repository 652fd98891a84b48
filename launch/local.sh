#!/usr/bin/env bash
# Train with N processes on this machine, as if on N hosts.
#
#   launch/local.sh N FLAGS...        FLAGS: see python -m vit_jax.main --help
#   launch/local.sh 2 --config=configs/quickstart.py --workdir=runs/two
#
# The processes share the GPUs of the machine equally. Without GPUs, each process simulates DEVICES
# CPU devices. On SIGTERM and Ctrl-C, all processes save and stop. Exit code: 0 if all are done, 42
# if all have stopped and saved (run the same command again to continue), 1 if one failed.
#
# Variables:
#   DEVICES   simulated CPU devices per process (default 1). If set, GPUs are not used.
#   PYTHON    Python interpreter (default .venv/bin/python if it exists, else python3)
#   PORT      port of the coordinator (default: a free one)
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; }

case ${1:-} in
  -h|--help) usage; exit 0;;
  ''|*[!0-9]*|0) usage >&2; exit 2;;
esac
processes=$1
shift

if [[ -z ${PYTHON:-} ]]; then
  PYTHON=python3
  if [[ -x $root/.venv/bin/python ]]; then PYTHON=$root/.venv/bin/python; fi
fi
port=${PORT:-$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("localhost", 0))
print(s.getsockname()[1])')}

gpus=()
if [[ -z ${DEVICES:-} ]] && command -v nvidia-smi > /dev/null; then
  mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader)
  if [[ -n ${CUDA_VISIBLE_DEVICES:-} ]]; then IFS=, read -ra gpus <<< "$CUDA_VISIBLE_DEVICES"; fi
fi
share=$((${#gpus[@]} / processes))
if ((${#gpus[@]} % processes)); then
  echo "error: ${#gpus[@]} GPUs do not divide among $processes processes" >&2
  exit 1
fi

start() {  # start I: become process I
  local devices
  if ((share)); then
    devices=$(IFS=,; echo "${gpus[*]:$1 * share:share}")
    export CUDA_VISIBLE_DEVICES=$devices
  else
    export JAX_PLATFORMS=cpu
    export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=${DEVICES:-1}"
  fi
  exec "$PYTHON" -m vit_jax.main "${flags[@]}" --coordinator_address="localhost:$port" \
    --num_processes="$processes" --process_id="$1" < /dev/null
}

flags=("$@")
pids=()
set -m  # one process group each, so that Ctrl-C reaches them once, through this script
for ((i = 0; i < processes; i++)); do
  start "$i" &
  pids+=($!)
done
set +m
trap 'kill -TERM "${pids[@]}" 2> /dev/null || true' TERM
trap 'kill -INT "${pids[@]}" 2> /dev/null || true' INT

code=0
for pid in "${pids[@]}"; do
  while true; do
    status=0
    wait "$pid" || status=$?
    if ! kill -0 "$pid" 2> /dev/null; then break; fi  # else a signal ended `wait`
  done
  case $status in
    0) ;;
    42) if ((code == 0)); then code=42; fi;;
    *) code=1;;
  esac
done
exit "$code"
