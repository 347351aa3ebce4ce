#!/usr/bin/env bash
# Runs on a Cloud TPU slice of any size: all its hosts run the same program,
# which does not depend on this terminal.
#
#   launch/tpu_vm.sh start --name=sqlm --zone=us-east5-b --type=v6e-16 -- \
#     --config=configs/multiplication.py --workdir=gs://bucket/runs/3b
#   launch/tpu_vm.sh status --name=sqlm --zone=us-east5-b
#
# start   creates the slice or uses an existing one (a preempted one is deleted
#         first), copies and installs this clone, and starts the run
# status  prints the state of the slice, and of the run on each host
# follow  prints the log of the first host until Ctrl-C
# logs    copies the log of each host to runs/logs/NAME
# stop    tells the run to save and end, and waits for it
# delete  deletes the slice
#
# --name=NAME --zone=ZONE  the slice
# --project=PROJECT  its project (default: gcloud's)
# --type=TYPE        type of the accelerator, such as v5litepod-16 (start)
# --version=VERSION  version of its software (start; default: by type)
# --spot             cheaper, but may be taken away at any time (start)
# --dry_run          prints the commands without running them
set -euo pipefail
# shellcheck source=launch/commands.sh
source "$(dirname "${BASH_SOURCE[0]}")/commands.sh"

actions='start, status, follow, logs, stop, delete'
name='' zone='' project='' type='' version='' spot='' dry_run=''

fail() {
  echo "launch/tpu_vm.sh: $*" >&2
  exit 2
}

tpu() {  # verb, arguments
  run gcloud compute tpus tpu-vm "$1" "${@:2}" "--zone=$zone" \
    ${project:+"--project=$project"}
}

on_all() {  # command, arguments
  tpu ssh "$name" --worker=all "--command=$1" "${@:2}"
}

# Prints the state of the slice, or `none` if gcloud reports that it does not
# exist. Any other failure, such as a network error, ends the script.
find_state() {
  local state errors code=0
  if [[ $dry_run ]]; then
    tpu describe "$name" '--format=value(state)'
    return
  fi
  errors=$(mktemp)
  state=$(tpu describe "$name" '--format=value(state)' 2> "$errors") || code=$?
  cat "$errors" >&2
  if ((code)) && grep -q NOT_FOUND "$errors"; then state=none code=0; fi
  rm -f "$errors"
  ((code == 0)) ||
    fail "$name: gcloud could not say whether it exists (exit code $code)"
  echo "$state"
}

create() {
  tpu create "$name" "--accelerator-type=$type" "--version=$version" \
    ${spot:+--spot}
}

create_or_reuse() {
  local state
  if [[ $dry_run ]]; then
    find_state
    echo '# if it was preempted:'
    tpu delete "$name" --quiet
    echo '# if it was preempted, or does not exist:'
    create
    echo '# then:'
    return
  fi
  state=$(find_state)
  case $state in
    READY) ;;
    none) create ;;
    PREEMPTED | TERMINATED)
      tpu delete "$name" --quiet
      create
      ;;
    *) fail "$name is $state: expected READY, PREEMPTED, or no slice" ;;
  esac
}

start() {
  local alive install
  [[ $type ]] || fail '--type: expected, such as v5litepod-16'
  if [[ -z $version ]]; then
    case $type in
      v4-*) version=tpu-ubuntu2204-base ;;
      v5litepod-*) version=v2-alpha-tpuv5-lite ;;
      v5p-*) version=v2-alpha-tpuv5 ;;
      v6e-*) version=v2-alpha-tpuv6e ;;
      *) fail "--type=$type: expected v4-N, v5litepod-N, v5p-N or v6e-N," \
        'or in addition --version' ;;
    esac
  fi
  # shellcheck disable=SC2016  # the hosts expand it
  alive='kill -0 "$(cat sqlm_jax.pid 2> /dev/null)" 2> /dev/null'
  # The Python of the images is too old.
  install="if $alive; then echo 'a run is in progress: expected stop' >&2;"
  install+=' exit 1; fi; mkdir -p sqlm_jax'
  install+=' && tar -xzf sqlm_jax.tar.gz -C sqlm_jax'
  install+=' && sudo apt-get -qq -o DPkg::Lock::Timeout=600 update'
  install+=' && sudo apt-get -qq -o DPkg::Lock::Timeout=600 install -y'
  install+=' bubblewrap'
  install+=' && PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install -q --user uv'
  install+=' && python3 -m uv venv -q --allow-existing --python=3.11 venv'
  install+=' && python3 -m uv pip install -q --python=venv'
  install+=" -e './sqlm_jax[tpu,gs]'"

  create_or_reuse
  run mkdir -p build
  # All files except those that git ignores, committed or not.
  run bash -c 'export GIT_INDEX_FILE=build/index && git add --all '\
'&& git archive --output=build/sqlm_jax.tar.gz "$(git write-tree)"'
  tpu scp build/sqlm_jax.tar.gz "$name:" --worker=all
  on_all "$install"
  on_all "cd sqlm_jax && (nohup setsid ../venv/bin/$(show \
    python -m sqlm_jax.main --distributed=auto "$@") \
>> ../sqlm_jax.log 2>&1 < /dev/null & echo \$! > ../sqlm_jax.pid)"
}

action=${1-}
[[ ", $actions," == *", $action,"* && $action != *,* && $action ]] ||
  fail "${action:-no action}: expected one of $actions"
shift
while (($#)); do
  case $1 in
    --name=?*) name=${1#*=} ;;
    --zone=?*) zone=${1#*=} ;;
    --project=?*) project=${1#*=} ;;
    --type=?*) type=${1#*=} ;;
    --version=?*) version=${1#*=} ;;
    --spot) spot=1 ;;
    --dry_run) dry_run=1 ;;
    --) break ;;
    *) fail "$1: expected one of --name=NAME, --zone=ZONE," \
      '--project=PROJECT, --type=TYPE, --version=VERSION, --spot, --dry_run,' \
      'then for start -- and flags of sqlm_jax.main' ;;
  esac
  shift
done
[[ $name ]] || fail '--name: expected'
[[ $zone ]] || fail '--zone: expected'
[[ -e sqlm_jax/main.py ]] || fail "$PWD: expected the root of a clone"

# shellcheck disable=SC2016  # the hosts expand it
pid='"$(cat sqlm_jax.pid)"'
case $action in
  start)
    (($# > 1)) || fail '--: expected, and flags of sqlm_jax.main after it'
    start "${@:2}"
    ;;
  status)
    tpu describe "$name" '--format=value(state)'
    on_all "kill -0 $pid 2> /dev/null && echo running || echo 'not running'; tail -n 3 sqlm_jax.log"
    ;;
  follow)
    tpu ssh "$name" --worker=0 '--command=tail -n 50 -F sqlm_jax.log'
    ;;
  logs)
    run mkdir -p "runs/logs/$name"
    on_all 'cat sqlm_jax.log' "--output-directory=runs/logs/$name"
    ;;
  stop)
    on_all "kill -TERM $pid && while kill -0 $pid 2> /dev/null; do sleep 1; done; tail -n 3 sqlm_jax.log"
    ;;
  delete)
    tpu delete "$name"
    ;;
esac
