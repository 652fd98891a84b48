#!/usr/bin/env bash
# Train on a TPU pod slice of Google Cloud: create the slice, install, run on all hosts, restart.
#
#   NAME=vit ZONE=us-west4-a TYPE=v5litepod-16 VERSION=v2-alpha-tpuv5-lite \
#   CONFIG=configs/vit_b16.py WORKDIR=gs://BUCKET/vit launch/tpu_pod.sh run --config.batch_size=4096
#
#   create   request the slice (a queued resource) and wait until it is ready
#   setup    copy the committed source to all hosts and install it there
#   run      create and set up the slice if needed, then train on all hosts until exit code 0.
#            Continue after exit code 42 (preempted, saved) and after a lost slice or connection.
#            After an error, retry RETRIES times. Training runs on without this script, and `run`
#            finds it again. Further arguments are flags of vit_jax.main.
#   status   show the state of the slice, and of training on each host
#   logs     follow the log of process 0
#   stop     save and stop training. First press Ctrl-C on `run`, which would start it again.
#   delete   delete the slice, but not WORKDIR
#
# Log in to gcloud first. Variables, with their defaults:
NAME=${NAME:-vit-jax}
ZONE=${ZONE:-us-west4-a}
PROJECT=${PROJECT:-}                      # default: gcloud's
TYPE=${TYPE:-v5litepod-16}                # accelerator type; v5litepod-16 has 16 chips on 4 hosts
VERSION=${VERSION:-v2-alpha-tpuv5-lite}   # runtime for that type; for v4: tpu-ubuntu2204-base
SPOT=${SPOT:-}                            # 1: cheaper, but may be preempted at any time
CONFIG=${CONFIG:-configs/vit_b16.py}
WORKDIR=${WORKDIR:-}                      # gs://BUCKET/DIR, shared by all hosts
RETRIES=${RETRIES:-3}                     # allowed failures in a row, each within half an hour
DRY_RUN=${DRY_RUN:-}                      # 1: only print the commands
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; }
die() { echo "error: $*" >&2; exit 1; }
say() { echo "tpu_pod.sh: $*" >&2; }

run() {  # run COMMAND...
  if [[ $DRY_RUN ]]; then printf '%q ' "$@"; echo; else "$@"; fi
}
pause() { if [[ ! $DRY_RUN ]]; then sleep "$1"; fi; }

where=(--zone="$ZONE")
if [[ $PROJECT ]]; then where+=(--project="$PROJECT"); fi

state() {  # prints ACTIVE, WAITING_FOR_RESOURCES, PROVISIONING, SUSPENDED, ..., or NONE
  local answer
  if [[ $DRY_RUN ]]; then
    echo "${DRY_STATE:-ACTIVE}"
  elif answer=$(gcloud compute tpus queued-resources describe "$NAME" "${where[@]}" \
      --format='value(state.state)' 2>&1); then
    echo "$answer"
  elif [[ $answer == *NOT_FOUND* ]]; then
    echo NONE
  else
    echo "$answer" >&2
    echo UNKNOWN  # no network or no login
  fi
}

on_hosts() {  # on_hosts WORKER COMMAND: runs it over ssh; the exit code is the first nonzero one
  run gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker="$1" --command="$2"
}

create() {
  local options=(--accelerator-type="$TYPE" --runtime-version="$VERSION" --node-id="$NAME")
  if [[ $SPOT ]]; then options+=(--spot); fi
  run gcloud compute tpus queued-resources create "$NAME" "${where[@]}" "${options[@]}"
  wait_until_active
}

wait_until_active() {
  local now last=
  while now=$(DRY_STATE='' state); [[ $now != ACTIVE ]]; do
    case $now in
      NONE|FAILED|SUSPENDED|SUSPENDING|DELETING) die "The queued resource $NAME is $now.";;
    esac
    if [[ $now != "$last" ]]; then say "$NAME is $now."; fi
    last=$now
    pause 30
  done
}

setup() {
  local archive=${TMPDIR:-/tmp}/$NAME.tgz
  if [[ $(git status --porcelain --untracked-files=no) ]]; then
    say 'Warning: uncommitted changes are not copied to the hosts.'
  fi
  run git archive --format=tar.gz --output="$archive" HEAD
  run gcloud compute tpus tpu-vm scp "$archive" "$NAME:vit_jax.tgz" "${where[@]}" --worker=all
  # The runtimes have an older Python than vit_jax needs, so uv installs a newer one.
  on_hosts all "mkdir -p vit_jax && tar xzf vit_jax.tgz -C vit_jax && cd vit_jax && \
python3 -m pip install --quiet --user uv && \
python3 -m uv venv --quiet --allow-existing --python 3.13 .venv && \
python3 -m uv pip install --quiet --python .venv/bin/python -c constraints.txt -e .[tpu] gcsfs"
}

delete() {
  run gcloud compute tpus queued-resources delete "$NAME" "${where[@]}" --force --quiet
}

ensure() {  # makes sure that there is a slice with vit_jax installed
  local now
  while now=$(state); [[ $now == UNKNOWN ]]; do pause 60; done
  case $now in
    ACTIVE) ;;
    NONE) create; setup;;
    SUSPENDED|SUSPENDING|FAILED)
      say "$NAME was taken away. Requesting another one."
      delete
      create
      setup;;
    *) wait_until_active; setup;;
  esac
}

train() {
  [[ $WORKDIR == *://* ]] || die 'All hosts must share the workdir. Set WORKDIR=gs://BUCKET/DIR.'
  local flags failures=0 begun code
  printf -v flags ' %q' "--config=$CONFIG" "--workdir=$WORKDIR" "$@"
  while true; do
    ensure
    begun=$SECONDS code=0
    on_hosts all "vit_jax/launch/tpu_worker.sh run$flags" || code=$?
    if ((code == 0)); then return; fi
    say "Training ended with exit code $code."
    if ((code == 42 || code == 255 || SECONDS - begun > 1800)) || [[ $(state) != ACTIVE ]]; then
      failures=0
    elif ((++failures > RETRIES)); then
      die "Training failed $failures times in a row. See: $0 logs"
    fi
    pause 10
  done
}

status() {
  echo "$NAME: $(state)"
  on_hosts all 'vit_jax/launch/tpu_worker.sh status'
}

stop() { on_hosts 0 'vit_jax/launch/tpu_worker.sh stop'; }  # the other hosts follow

command=${1:-}
if (($#)); then shift; fi
case $command in
  create|setup|status|stop|delete) (($# == 0)) || die "$command takes no arguments."; "$command";;
  run) train "$@";;
  logs) on_hosts 0 'vit_jax/launch/tpu_worker.sh logs';;
  -h|--help) usage;;
  *) usage >&2; exit 2;;
esac
