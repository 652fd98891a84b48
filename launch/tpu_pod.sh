#!/usr/bin/env bash
# Train on a TPU pod slice of Google Cloud: create the slice, install, run on all hosts, restart.
#
#   NAME=vit ZONE=us-west4-a TYPE=v5litepod-16 VERSION=v2-alpha-tpuv5-lite \
#   CONFIG=configs/vit_b16.py WORKDIR=gs://BUCKET/vit launch/tpu_pod.sh run --config.batch_size=4096
#
#   NAME=vit ZONE=us-central1-c PROJECT=mine TYPE=tpu7x:2x2x4 \
#   CONFIG=configs/vit_b16.py WORKDIR=gs://BUCKET/vit launch/tpu_pod.sh run --config.batch_size=4096
#
#   create   request the slice and wait until it is ready
#   setup    copy the committed source to all hosts and install it there
#   run      create and set up the slice if needed, then train on all hosts until exit code 0.
#            Continue after exit code 42 (preempted, saved) and after a lost slice or connection.
#            After an error, retry RETRIES times. Training runs on without this script, and `run`
#            finds it again. Further arguments are flags of vit_jax.main.
#   status   show the state of the slice, and of training on each host
#   logs     follow the log of process 0 (with API=compute, of all processes; only 0 reports steps)
#   stop     save and stop training. First press Ctrl-C on `run`, which would start it again.
#   delete   delete the slice, but not WORKDIR
#
# Up to v6e, slices are queued resources of the Cloud TPU API. That API does not offer TPU7x and
# later, whose slices are instance groups of Compute Engine, with 4 chips in each VM. v5p and v6e
# have both.
#
# Log in to gcloud first. Variables, with their defaults:
NAME=${NAME:-vit-jax}
ZONE=${ZONE:-us-west4-a}
PROJECT=${PROJECT:-}                      # default: gcloud's
TYPE=${TYPE:-v5litepod-16}                # accelerator type; v5litepod-16 has 16 chips on 4 hosts.
                                          # compute: tpu7x:2x2x4, the chips along each axis
API=${API:-}                              # queued or compute; default: compute if TYPE has a colon
VERSION=${VERSION:-v2-alpha-tpuv5-lite}   # queued: runtime for TYPE; for v4: tpu-ubuntu2204-base
OPTIONS=${OPTIONS:-}                      # more options of "queued-resources create", or of
                                          # "instance-templates create", such as a reservation's
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
region=${ZONE%-*}
read -ra options <<< "$OPTIONS"

choose_api() {  # sets API, and for Compute Engine the topology, the number of hosts and the machine
  if [[ ! $API ]]; then
    if [[ $TYPE == *:* || $TYPE == tpu7x* ]]; then API=compute; else API=queued; fi
  fi
  case $API in
    queued)
      [[ $TYPE != tpu7x* ]] || die 'Queued resources do not offer TPU7x. Leave API out.'
      [[ $TYPE != *:* ]] || die 'With API=queued, TYPE is an accelerator type like v5litepod-16.'
      return;;
    compute) ;;
    *) die "API=$API is unknown. Set queued or compute, or leave it out.";;
  esac
  [[ $TYPE =~ ^(tpu7x|v6e|v5p):([0-9]+x[0-9]+(x[0-9]+)?)$ ]] ||
    die 'On Compute Engine, TYPE is tpu7x, v6e or v5p with the chips of each axis: tpu7x:2x2x4.'
  local chips=$((${BASH_REMATCH[2]//x/*}))
  topology=${BASH_REMATCH[2]} hosts=$((chips / 4))
  ((hosts)) || die "TYPE=$TYPE is less than one VM, which has 4 chips."
  ((chips % 4 == 0)) || die "TYPE=$TYPE has $chips chips, which do not divide over VMs of 4 chips."
  case ${BASH_REMATCH[1]} in
    tpu7x) machine=tpu7x-standard-4t image=ubuntu-accel-2404-amd64-tpu-tpu7x;;
    v6e) machine=ct6e-standard-4t image=ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e;;
    v5p) machine=ct5p-hightpu-4t image=ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e;;
  esac
  [[ $PROJECT ]] || die 'Set PROJECT. Compute Engine wants it in the names of resources.'
}

state() {  # prints ACTIVE, WAITING_FOR_RESOURCES, PROVISIONING, SUSPENDED, ..., or NONE
  local answer errors message code=0
  if [[ $DRY_RUN ]]; then echo "${DRY_STATE:-ACTIVE}"; return; fi
  errors=$(mktemp)  # apart from the answer, because gcloud also warns when it succeeds
  answer=$(query_state 2> "$errors") || code=$?
  message=$(< "$errors")
  rm -f "$errors"
  if ((code == 0)); then
    if [[ $API == compute ]]; then state_of_hosts "$answer"; else echo "$answer"; fi
  elif [[ $message == *NOT_FOUND* || $message == *'was not found'* ]]; then
    echo NONE
  else
    echo "$message" >&2
    echo UNKNOWN  # no network or no login
  fi
}

query_state() {
  if [[ $API == compute ]]; then
    gcloud compute instance-groups managed list-instances "$NAME" "${where[@]}" \
      --format='csv[no-heading](instanceStatus,currentAction)'
  else
    gcloud compute tpus queued-resources describe "$NAME" "${where[@]}" \
      --format='value(state.state)'
  fi
}

state_of_hosts() {  # state_of_hosts "STATUS,ACTION ...": prints the state of a slice from its VMs'
  local there running now=PROVISIONING
  local appearing='^(PENDING|PROVISIONING|STAGING),|,.*(CREATING|STARTING|RESUMING|VERIFYING)'
  there=$(grep -Ec '^[A-Z_]*,[A-Z_]*$' <<< "$1" || true)
  running=$(grep -c '^RUNNING,' <<< "$1" || true)
  if ((running == hosts)); then
    now=ACTIVE
  elif ((there == 0)); then
    now=EMPTY  # just requested, or all deleted
  elif grep -Eq "$appearing" <<< "$1"; then
    now=PROVISIONING  # the others may not be in the list yet
  elif ((there < hosts)) || grep -Eq '^(STOP|TERMINAT|SUSPEND|DEPROVISION)' <<< "$1"; then
    now=SUSPENDED
  fi
  echo "$now"
}

host_names() {  # of Compute Engine
  if [[ $DRY_RUN ]]; then
    for ((i = 0; i < hosts; i++)); do echo "$NAME-$i"; done
  else
    gcloud compute instance-groups managed list-instances "$NAME" "${where[@]}" \
      --format='value(instance.basename())' | sort
  fi
}

ssh_pids=()
stop_ssh() { if ((${#ssh_pids[@]})); then kill "${ssh_pids[@]}" 2> /dev/null || true; fi; }
trap stop_ssh EXIT

on_hosts() {  # on_hosts WORKER COMMAND: runs it over ssh; the exit code is the first nonzero one
  if [[ $API == queued ]]; then
    run gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker="$1" --command="$2"
    return
  fi
  local names text ssh i status code=0
  mapfile -t names < <(host_names)
  if ((${#names[@]} != hosts)); then
    say "$NAME has ${#names[@]} instead of $hosts hosts."
    return 255  # like a lost connection
  fi
  if [[ $1 == 0 ]]; then names=("${names[0]}"); fi
  ssh_pids=()
  for i in "${!names[@]}"; do
    text=${2//@FIRST_HOST@/${names[0]}}
    ssh=(gcloud compute ssh "${names[i]}" "${where[@]}" --command="${text//@RANK@/$i}")
    if [[ $DRY_RUN ]]; then run "${ssh[@]}"; else "${ssh[@]}" & ssh_pids+=($!); fi
  done
  for i in "${ssh_pids[@]}"; do
    wait "$i" || { status=$?; ((code)) || code=$status; }
  done
  ssh_pids=()
  return "$code"
}

copy_to_hosts() {  # copy_to_hosts FILE: as vit_jax.tgz
  if [[ $API == queued ]]; then
    run gcloud compute tpus tpu-vm scp "$1" "$NAME:vit_jax.tgz" "${where[@]}" --worker=all
    return
  fi
  local name
  for name in $(host_names); do
    run gcloud compute scp "$1" "$name:vit_jax.tgz" "${where[@]}"
  done
}

create() {
  if [[ $API == compute ]]; then create_instance_group; else create_queued_resource; fi
  wait_until_active
}

create_queued_resource() {
  local request=(--accelerator-type="$TYPE" --runtime-version="$VERSION" --node-id="$NAME")
  if [[ $SPOT ]]; then request+=(--spot); fi
  run gcloud compute tpus queued-resources create "$NAME" "${where[@]}" "${request[@]}" \
    "${options[@]}"
}

create_instance_group() {  # all VMs at once, connected as a slice by the workload policy
  local parent=projects/$PROJECT/regions/$region
  local made=() group=(--size="$hosts" --template="$parent/instanceTemplates/$NAME")
  group+=(--target-size-policy-mode=bulk --default-action-on-vm-failure=do-nothing)
  if ((hosts > 1)); then
    run gcloud compute resource-policies create workload-policy "$NAME" --project="$PROJECT" \
      --region="$region" --type=HIGH_THROUGHPUT --accelerator-topology="$topology" \
      --accelerator-topology-mode=AUTO_CONNECT || give_up
    made+=(resource-policies)
    group+=(--workload-policy="$parent/resourcePolicies/$NAME")
  fi
  local template=(--machine-type="$machine" --image-project=ubuntu-os-accelerator-images)
  template+=(--image-family="$image" --boot-disk-size=200GB --maintenance-policy=TERMINATE)
  template+=(--scopes=cloud-platform)
  if [[ $SPOT ]]; then template+=(--provisioning-model=SPOT --instance-termination-action=STOP); fi
  run gcloud compute instance-templates create "$NAME" --project="$PROJECT" \
    --instance-template-region="$region" "${template[@]}" "${options[@]}" || give_up
  made+=(instance-templates)
  run gcloud compute instance-groups managed create "$NAME" "${where[@]}" "${group[@]}" || give_up
}

give_up() {  # deletes what `create_instance_group` has made, which would be in the way next time
  local kind
  for kind in "${made[@]}"; do
    run gcloud compute "$kind" delete "$NAME" --project="$PROJECT" --region="$region" --quiet ||
      say "$NAME remains in $kind."
  done
  die "Could not create $NAME. If something remains of an earlier attempt, run: $0 delete"
}

wait_until_active() {
  local now last=
  while now=$(DRY_STATE='' state); [[ $now != ACTIVE ]]; do
    case $now in
      NONE|FAILED|SUSPENDED|SUSPENDING|DELETING) die "The slice $NAME is $now.";;
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
  copy_to_hosts "$archive"
  # The hosts have another Python than vit_jax needs, so uv installs one.
  on_hosts all "mkdir -p vit_jax && tar xzf vit_jax.tgz -C vit_jax && cd vit_jax && \
curl -LsSf https://astral.sh/uv/install.sh | sh -s -- --quiet && \
~/.local/bin/uv venv --quiet --allow-existing --python 3.13 .venv && \
~/.local/bin/uv pip install --quiet --python .venv/bin/python -c constraints.txt -e .[tpu] gcsfs"
}

delete() {
  if [[ $API == queued ]]; then
    run gcloud compute tpus queued-resources delete "$NAME" "${where[@]}" --force --quiet
    return
  fi
  local code=0 there=(--project="$PROJECT" --region="$region")  # also deletes what create left
  run gcloud compute instance-groups managed delete "$NAME" "${where[@]}" --quiet || code=$?
  run gcloud compute instance-templates delete "$NAME" "${there[@]}" --quiet || code=$?
  if ((hosts > 1)); then
    run gcloud compute resource-policies delete "$NAME" "${there[@]}" --quiet || code=$?
  fi
  return "$code"
}

ensure() {  # makes sure that there is a slice with vit_jax installed
  local now
  while now=$(state); [[ $now == UNKNOWN ]]; do pause 60; done
  case $now in
    ACTIVE) ;;
    NONE) create; setup;;
    SUSPENDED|SUSPENDING|FAILED|EMPTY)
      say "$NAME was taken away. Requesting another one."
      delete || say "Not all of $NAME could be deleted. Parts of it may have been gone before."
      create
      setup;;
    *) wait_until_active; setup;;
  esac
}

train() {
  [[ $WORKDIR == *://* ]] || die 'All hosts must share the workdir. Set WORKDIR=gs://BUCKET/DIR.'
  local flags failures=0 begun code
  printf -v flags ' %q' "--config=$CONFIG" "--workdir=$WORKDIR" "$@"
  if [[ $API == compute ]]; then  # JAX does not find the hosts of an instance group by itself
    flags+=" --coordinator_address=@FIRST_HOST@:8476 --num_processes=$hosts --process_id=@RANK@"
  fi
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

logs() {
  local worker=0
  if [[ $API == compute ]]; then worker=all; fi  # the first host need not have process 0
  on_hosts "$worker" 'vit_jax/launch/tpu_worker.sh logs'
}

stop() { on_hosts 0 'vit_jax/launch/tpu_worker.sh stop'; }  # the other hosts follow

command=${1:-}
if (($#)); then shift; fi
case $command in
  create|setup|status|logs|stop|delete)
    (($# == 0)) || die "$command takes no arguments."
    choose_api
    "$command";;
  run) choose_api; train "$@";;
  -h|--help) usage;;
  *) usage >&2; exit 2;;
esac
