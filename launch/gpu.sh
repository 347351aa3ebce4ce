#!/usr/bin/env bash
# Runs on one machine with NVIDIA GPUs. One process uses some or all of them.
#
#   launch/gpu.sh -- --config=configs/multiplication.py --workdir=runs/3b
#   launch/gpu.sh --gpus=0,1 -- --config=… --workdir=…
#
# --gpus=I,J     GPUs to use, by their numbers in nvidia-smi (all)
# --memory=0.75  share of each GPU's memory that JAX allocates when it starts
# --dry_run      prints the command without running it
#
# The script fails if no GPU works, whereas JAX by itself would use the CPU.
set -euo pipefail
# shellcheck source=launch/commands.sh
source "$(dirname "${BASH_SOURCE[0]}")/commands.sh"

gpus='' memory='' dry_run=''

fail() {
  echo "launch/gpu.sh: $*" >&2
  exit 2
}

while (($#)); do
  case $1 in
    --gpus=?*) gpus=${1#*=} ;;
    --memory=?*) memory=${1#*=} ;;
    --dry_run) dry_run=1 ;;
    --) break ;;
    *) fail "$1: expected one of --gpus=I,J, --memory=SHARE, --dry_run," \
      'then -- and flags of sqlm_jax.main' ;;
  esac
  shift
done
(($# > 1)) || fail '--: expected, and flags of sqlm_jax.main after it'
shift
[[ -z $gpus || $gpus =~ ^[0-9]+(,[0-9]+)*$ ]] ||
  fail "--gpus=$gpus: expected numbers such as 0,1"
[[ -z $memory || $memory =~ ^0?\.[0-9]*[1-9][0-9]*$ ]] ||
  fail "--memory=$memory: expected a number between 0 and 1"

command=(env "JAX_PLATFORMS=cuda,cpu")
[[ -z $gpus ]] || command+=("CUDA_VISIBLE_DEVICES=$gpus")
[[ -z $memory ]] || command+=("XLA_PYTHON_CLIENT_MEM_FRACTION=$memory")
command+=("${PYTHON:-python}" -m sqlm_jax.main "$@")
[[ ! $dry_run ]] || { show "${command[@]}" && exit; }
show "${command[@]}" >&2
exec "${command[@]}"
