#!/usr/bin/env bash
# Runs on Google Kubernetes Engine through xpk, on one or several TPU slices.
#
#   launch/xpk.sh start --workload=sqlm --cluster=pods --project=mine \
#     --zone=us-east5-b --type=v6e-16 --num_slices=2 -- \
#     --config=configs/multiplication.py --workdir=gs://bucket/runs/3b
#   launch/xpk.sh logs --workload=sqlm --cluster=pods --project=mine \
#     --zone=us-east5-b
#
# start   copies this clone into an image and starts the run on every slice
# status  prints the state of the run
# logs    prints the logs of all its current pods
# delete  stops the run, which saves first if it can within --grace seconds
#
# --workload=NAME --cluster=CLUSTER --project=PROJECT --zone=ZONE  the run
# --type=TYPE          type of a slice, such as v5litepod-16 (start)
# --num_slices=N       number of slices (start; 1)
# --spot               use spot capacity, for a cluster that provisions its
#                      machines automatically (start; other clusters decide when
#                      they are created)
# --max_restarts=N     maximum number of restarts after a slice was lost (start;
#                      100)
# --grace=SECONDS      time between the notice and the end of a pod (start; 120)
# --image=IMAGE        image to which the clone is added (start; python:3.12)
# --dry_run            prints the commands without running them
set -euo pipefail
# shellcheck source=launch/commands.sh
source "$(dirname "${BASH_SOURCE[0]}")/commands.sh"

actions='start, status, logs, delete'
workload='' cluster='' project='' zone='' type='' spot='' dry_run=''
num_slices=1 max_restarts=100 grace=120 image=python:3.12

fail() {
  echo "launch/xpk.sh: $*" >&2
  exit 2
}

workload() {  # verb, arguments
  run xpk workload "$1" "--cluster=$cluster" "--project=$project" \
    "--zone=$zone" "${@:2}"
}

start() {
  local flag command bucket=''
  [[ $type ]] || fail '--type: expected, such as v5litepod-16'
  for flag; do
    [[ $flag != *$'\n'* ]] || fail "$flag: expected no line break"
    [[ $flag != --workdir=gs://?* ]] || bucket=1
  done
  # A pod's own disk is deleted with the pod.
  [[ $bucket ]] || fail '--workdir=gs://…: expected after --'
  # `exec`: the last process of the command receives the preemption notice.
  command='apt-get -qq update && apt-get -qq install -y bubblewrap'
  command+=" && pip install -q -e '.[tpu,gs]'"
  command+=" && exec $(show python -m sqlm_jax.main --distributed=auto \
    --stopped_exit_code=75 "$@")"

  run mkdir -p build
  # All files except those that git ignores, committed or not.
  run bash -c 'export GIT_INDEX_FILE=build/index && rm -rf build/image '\
'&& git add --all && git checkout-index --all --prefix=build/image/'
  # Exit codes 1 and 6: an error, such as the loss of another slice; 75: a
  # preemption notice. A run that has diverged (3) would diverge again.
  workload create "--workload=$workload" "--tpu-type=$type" \
    "--num-slices=$num_slices" ${spot:+--spot} \
    "--max-restarts=$max_restarts" --restart-on-exit-codes=1,6,75 \
    "--termination-grace-period-seconds=$grace" \
    "--base-docker-image=$image" --script-dir=build/image \
    "--command=$command"
}

action=${1-}
[[ ", $actions," == *", $action,"* && $action != *,* && $action ]] ||
  fail "${action:-no action}: expected one of $actions"
shift
while (($#)); do
  case $1 in
    --workload=?*) workload=${1#*=} ;;
    --cluster=?*) cluster=${1#*=} ;;
    --project=?*) project=${1#*=} ;;
    --zone=?*) zone=${1#*=} ;;
    --type=?*) type=${1#*=} ;;
    --num_slices=?*) num_slices=${1#*=} ;;
    --spot) spot=1 ;;
    --max_restarts=?*) max_restarts=${1#*=} ;;
    --grace=?*) grace=${1#*=} ;;
    --image=?*) image=${1#*=} ;;
    --dry_run) dry_run=1 ;;
    --) break ;;
    *) fail "$1: expected one of --workload=NAME, --cluster=CLUSTER," \
      '--project=PROJECT, --zone=ZONE, --type=TYPE, --num_slices=N, --spot,' \
      '--max_restarts=N, --grace=SECONDS, --image=IMAGE, --dry_run,' \
      'then for start -- and flags of sqlm_jax.main' ;;
  esac
  shift
done
for flag in workload cluster project zone; do
  [[ ${!flag} ]] || fail "--$flag: expected"
done
[[ $num_slices =~ ^[1-9][0-9]*$ ]] ||
  fail "--num_slices=$num_slices: expected a whole number above 0"
for flag in max_restarts grace; do
  [[ ${!flag} =~ ^[0-9]+$ ]] ||
    fail "--$flag=${!flag}: expected a whole number"
done
[[ -e sqlm_jax/main.py ]] || fail "$PWD: expected the root of a clone"

case $action in
  start)
    (($# > 1)) || fail '--: expected, and flags of sqlm_jax.main after it'
    start "${@:2}"
    ;;
  status)
    workload list "--filter-by-job=$workload"
    ;;
  logs)
    # This command configures kubectl for the cluster.
    workload list "--filter-by-job=$workload"
    run kubectl logs "--selector=xpk.google.com/workload=$workload" \
      --prefix --tail=-1 --max-log-requests=1024
    ;;
  delete)
    workload delete "--workload=$workload"
    ;;
esac
