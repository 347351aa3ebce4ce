#!/usr/bin/env bash
# Google Kubernetes Engine by way of xpk: one TPU slice, or several as one run.
#
#   launch/xpk.sh start --workload=sqlm --cluster=pods --project=mine \
#     --zone=us-east5-b --type=v6e-16 --num_slices=2 -- \
#     --config=configs/multiplication.py --workdir=gs://bucket/runs/3b
#   launch/xpk.sh logs --workload=sqlm --cluster=pods --project=mine \
#     --zone=us-east5-b
#
# start   copies this clone into an image and starts the run on every slice
# status  of the run
# logs    of all its pods that are there now
# delete  stops the run; it saves first, where it can in --grace seconds
#
# --workload=NAME --cluster=CLUSTER --project=PROJECT --zone=ZONE  what, where
# --type=TYPE          of a slice, such as v5litepod-16 (start)
# --num_slices=N       how many (start; 1)
# --spot               on spot capacity, of a cluster that provisions itself
#                      (start; another cluster decides when it is made)
# --max_restarts=N     how often the run goes on after slices were lost (start;
#                      100)
# --grace=SECONDS      between the notice and the end of a pod (start; 120)
# --image=IMAGE        to which the clone is added (start; python:3.12)
# --dry_run            prints the commands, runs none
set -euo pipefail

actions='start, status, logs, delete'
workload='' cluster='' project='' zone='' type='' spot='' dry_run=''
num_slices=1 max_restarts=100 grace=120 image=python:3.12

fail() {
  echo "launch/xpk.sh: $*" >&2
  exit 2
}

# Prints a command as a shell reads it.
show() {
  local word line='' tick="'" escaped="'\\''"
  for word; do
    [[ $word =~ ^[A-Za-z0-9_.,:/=@%+-]+$ ]] ||
      word="'${word//$tick/$escaped}'"
    line+="$word "
  done
  printf '%s\n' "${line% }"
}

run() {
  if [[ $dry_run ]]; then show "$@"; else show "$@" >&2 && "$@"; fi
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
  # A pod's own disk goes with it.
  [[ $bucket ]] || fail '--workdir=gs://…: expected after --'
  # What is started last has to be the program: it gets the notice.
  command='apt-get -qq update && apt-get -qq install -y bubblewrap'
  command+=" && pip install -q -e '.[tpu,gs]'"
  command+=" && exec $(show python -m sqlm_jax.main --distributed=auto \
    --stopped_exit_code=75 "$@")"

  run mkdir -p build
  # All files but those that git ignores, committed or not.
  run bash -c 'export GIT_INDEX_FILE=build/index && rm -rf build/image '\
'&& git add --all && git checkout-index --all --prefix=build/image/'
  # 1 and 6: an error, such as the loss of another slice.
  # 75: a preemption notice. A run that has diverged (3) would do so again.
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
    # The first one leads kubectl to the cluster.
    workload list "--filter-by-job=$workload"
    run kubectl logs "--selector=xpk.google.com/workload=$workload" \
      --prefix --tail=-1 --max-log-requests=1024
    ;;
  delete)
    workload delete "--workload=$workload"
    ;;
esac
