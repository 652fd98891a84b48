#!/usr/bin/env bash
# Trains on a TPU pod slice of Google Cloud: creates it, installs, runs on every host, restarts.
#
#   NAME=vit ZONE=us-west4-a TYPE=v5litepod-16 VERSION=v2-alpha-tpuv5-lite \
#   CONFIG=configs/vit_b16.py WORKDIR=gs://BUCKET/vit launch/tpu_pod.sh run --config.batch_size=4096
#
#   create   asks for the slice (a queued resource) and waits until it is there
#   setup    copies the committed source to all hosts and installs it there
#   run      create and setup where that was not done; trains on all hosts until exit code 0. After
#            42 (preempted, saved), after a lost slice or connection it goes on by itself, after an
#            error RETRIES times. Training does not need this script: when it is stopped, training
#            goes on, and `run` finds it. Further arguments are flags of vit_jax.main.
#   status   the state of the slice, and of training on each host
#   logs     follows the log of process 0
#   stop     saves and stops training (after Ctrl-C on `run`, which would start it again)
#   delete   deletes the slice; WORKDIR stays
#
# Variables, with their defaults; gcloud must be logged in:
NAME=${NAME:-vit-jax}
ZONE=${ZONE:-us-west4-a}
PROJECT=${PROJECT:-}                      # empty: gcloud's default
TYPE=${TYPE:-v5litepod-16}                # accelerator type; v5litepod-16: 16 chips, 4 hosts
VERSION=${VERSION:-v2-alpha-tpuv5-lite}   # runtime of that type; v4: tpu-ubuntu2204-base
SPOT=${SPOT:-}                            # 1: cheaper, may be taken away at any time
CONFIG=${CONFIG:-configs/vit_b16.py}
WORKDIR=${WORKDIR:-}                      # gs://BUCKET/DIR: all hosts write there
RETRIES=${RETRIES:-3}                     # failures in a row, each within half an hour
DRY_RUN=${DRY_RUN:-}                      # 1: prints the commands instead
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

state() {  # ACTIVE, WAITING_FOR_RESOURCES, PROVISIONING, SUSPENDED, ...; NONE without a slice
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
    echo UNKNOWN  # no network, no login
  fi
}

on_hosts() {  # on_hosts WORKER COMMAND: over ssh; the exit code is the first one that is not 0
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
      NONE|FAILED|SUSPENDED|SUSPENDING|DELETING) die "the queued resource $NAME is $now";;
    esac
    if [[ $now != "$last" ]]; then say "$NAME is $now"; fi
    last=$now
    pause 30
  done
}

setup() {
  local archive=${TMPDIR:-/tmp}/$NAME.tgz
  if [[ $(git status --porcelain --untracked-files=no) ]]; then
    say 'changes that are not committed stay here'
  fi
  run git archive --format=tar.gz --output="$archive" HEAD
  run gcloud compute tpus tpu-vm scp "$archive" "$NAME:vit_jax.tgz" "${where[@]}" --worker=all
  # The runtimes come with an older Python than vit_jax needs: uv brings one.
  on_hosts all "mkdir -p vit_jax && tar xzf vit_jax.tgz -C vit_jax && cd vit_jax && \
python3 -m pip install --quiet --user uv && \
python3 -m uv venv --quiet --allow-existing --python 3.11 .venv && \
python3 -m uv pip install --quiet --python .venv/bin/python -c constraints.txt -e .[tpu] gcsfs"
}

delete() {
  run gcloud compute tpus queued-resources delete "$NAME" "${where[@]}" --force --quiet
}

ensure() {  # a slice with vit_jax on it, whatever became of the last one
  local now
  while now=$(state); [[ $now == UNKNOWN ]]; do pause 60; done
  case $now in
    ACTIVE) ;;
    NONE) create; setup;;
    SUSPENDED|SUSPENDING|FAILED)
      say "$NAME was taken away; asking for another"
      delete
      create
      setup;;
    *) wait_until_active; setup;;
  esac
}

train() {
  [[ $WORKDIR == *://* ]] || die 'all hosts must write to one place: set WORKDIR=gs://BUCKET/DIR'
  local flags failures=0 begun code
  printf -v flags ' %q' "--config=$CONFIG" "--workdir=$WORKDIR" "$@"
  while true; do
    ensure
    begun=$SECONDS code=0
    on_hosts all "vit_jax/launch/tpu_worker.sh run$flags" || code=$?
    if ((code == 0)); then return; fi
    say "training ended with exit code $code"
    if ((code == 42 || code == 255 || SECONDS - begun > 1800)) || [[ $(state) != ACTIVE ]]; then
      failures=0
    elif ((++failures > RETRIES)); then
      die "$failures failures in a row; see: $0 logs"
    fi
    pause 10
  done
}

status() {
  echo "$NAME: $(state)"
  on_hosts all 'vit_jax/launch/tpu_worker.sh status'
}

stop() { on_hosts 0 'vit_jax/launch/tpu_worker.sh stop'; }  # the others follow

command=${1:-}
if (($#)); then shift; fi
case $command in
  create|setup|status|stop|delete) (($# == 0)) || die "$command takes no arguments"; "$command";;
  run) train "$@";;
  logs) on_hosts 0 'vit_jax/launch/tpu_worker.sh logs';;
  -h|--help) usage;;
  *) usage >&2; exit 2;;
esac
