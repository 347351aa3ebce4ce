"""Commands that the scripts of launch/ print and run, and their errors."""

import pathlib
import re
import shlex
import subprocess
import sysconfig

import pytest

from tests.launch import stand_ins

ROOT = stand_ins.ROOT
SCRIPTS = sorted((ROOT / 'launch').glob('*.sh'))
SCRIPTS += [ROOT / 'launch' / 'slurm.sbatch']
PROGRAMS = (
  *('env', 'python', 'gcloud', 'xpk', 'kubectl'),
  *('srun', 'scancel', 'scontrol'),
)
CONFIG = '--config=configs/smoke.py'
TPU = ('--name=t', '--zone=us-a')
XPK = ('--workload=w', '--cluster=c', '--project=p', '--zone=us-a')
ON_SLURM = stand_ins.ON_SLURM


@pytest.fixture
def machine(tmp_path):
  made = stand_ins.Machine(tmp_path)
  for name in PROGRAMS:
    made.add(name)
  return made


def case(script, args, expected, env=None):
  return pytest.param(script, args, expected, env or {}, id=f'{script} {args}')


# The expected commands are written by hand.
LOCAL = 'env JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES={} python -m sqlm_jax.main'
TPU_VM = 'gcloud compute tpus tpu-vm'
CASES = [
  case(
    'local.sh',
    f'-- {CONFIG} "--workdir=a b"',
    [LOCAL.format(1) + f" {CONFIG} '--workdir=a b'"],
  ),
  case(
    'local.sh',
    f'--processes=2 --devices=4 --port=99 -- {CONFIG}',
    [
      LOCAL.format(4) + ' --coordinator_address=127.0.0.1:99 '
      f'--num_processes=2 --process_id={i} {CONFIG} &'
      for i in range(2)
    ],
  ),
  case(
    'gpu.sh',
    f'-- {CONFIG}',
    [f'env JAX_PLATFORMS=cuda,cpu python -m sqlm_jax.main {CONFIG}'],
  ),
  case(
    'gpu.sh',
    f'--gpus=0,3 --memory=0.9 -- {CONFIG}',
    [
      'env JAX_PLATFORMS=cuda,cpu CUDA_VISIBLE_DEVICES=0,3 '
      'XLA_PYTHON_CLIENT_MEM_FRACTION=0.9 '
      f'python -m sqlm_jax.main {CONFIG}'
    ],
  ),
  # One process per node, which uses all GPUs of the node.
  case(
    'slurm.sbatch',
    f'-- {CONFIG}',
    [
      'srun --kill-on-bad-exit=1 --cpus-per-task=8 '
      'env JAX_LOCAL_DEVICE_IDS=0,1,2,3 '
      f'python -m sqlm_jax.main --distributed=auto {CONFIG}'
    ],
    ON_SLURM | {'SLURM_GPUS_ON_NODE': '4', 'SLURM_CPUS_PER_TASK': '8'},
  ),
  # One process for each of 2 * 4 GPUs.
  case(
    'slurm.sbatch',
    f'-- {CONFIG}',
    [
      'srun --kill-on-bad-exit=1 '
      f'python -m sqlm_jax.main --distributed=auto {CONFIG}'
    ],
    ON_SLURM | {'SLURM_GPUS_ON_NODE': '4', 'SLURM_NTASKS': '8'},
  ),
  case(
    'tpu_vm.sh',
    'status --name=t --zone=us-a --project=p',
    [
      f"{TPU_VM} describe t '--format=value(state)' --zone=us-a --project=p",
      f"{TPU_VM} ssh t --worker=all '--command=kill -0 "
      '"$(cat sqlm_jax.pid)" 2> /dev/null && echo running || echo '
      r"'\''not running'\''; tail -n 3 sqlm_jax.log' --zone=us-a --project=p",
    ],
  ),
  case(
    'tpu_vm.sh',
    'follow --name=t --zone=us-a',
    [
      f"{TPU_VM} ssh t --worker=0 '--command=tail -n 50 -F sqlm_jax.log' "
      '--zone=us-a'
    ],
  ),
  case(
    'tpu_vm.sh',
    'logs --name=t --zone=us-a',
    [
      'mkdir -p runs/logs/t',
      f"{TPU_VM} ssh t --worker=all '--command=cat sqlm_jax.log' "
      '--output-directory=runs/logs/t --zone=us-a',
    ],
  ),
  case(
    'tpu_vm.sh',
    'stop --name=t --zone=us-a',
    [
      f'{TPU_VM} ssh t --worker=all \'--command=kill -TERM "$(cat '
      'sqlm_jax.pid)" && while kill -0 "$(cat sqlm_jax.pid)" 2> /dev/null; '
      "do sleep 1; done; tail -n 3 sqlm_jax.log' --zone=us-a"
    ],
  ),
  case(
    'tpu_vm.sh',
    'delete --name=t --zone=us-a',
    [f'{TPU_VM} delete t --zone=us-a'],
  ),
  case(
    'xpk.sh',
    f'start {" ".join(XPK)} --type=v6e-16 --num_slices=2 --spot '
    f"-- {CONFIG} --workdir=gs://b/r '--a=1 2'",
    [
      'mkdir -p build',
      "bash -c 'export GIT_INDEX_FILE=build/index && rm -rf build/image && "
      "git add --all && git checkout-index --all --prefix=build/image/'",
      'xpk workload create --cluster=c --project=p --zone=us-a --workload=w '
      '--tpu-type=v6e-16 --num-slices=2 --spot --max-restarts=100 '
      '--restart-on-exit-codes=1,6,75 --termination-grace-period-seconds=120 '
      '--base-docker-image=python:3.12 --script-dir=build/image '
      "'--command=apt-get -qq update && apt-get -qq install -y bubblewrap && "
      r"pip install -q -e '\''.[tpu,gs]'\'' && "
      'exec python -m sqlm_jax.main --distributed=auto --stopped_exit_code=75 '
      f'{CONFIG} '
      r"--workdir=gs://b/r '\''--a=1 2'\'''",
    ],
  ),
  case(
    'xpk.sh',
    f'logs {" ".join(XPK)}',
    [
      'xpk workload list --cluster=c --project=p --zone=us-a --filter-by-job=w',
      'kubectl logs --selector=xpk.google.com/workload=w --prefix --tail=-1 '
      '--max-log-requests=1024',
    ],
  ),
  case(
    'xpk.sh',
    f'delete {" ".join(XPK)}',
    [
      'xpk workload delete --cluster=c --project=p --zone=us-a --workload=w',
    ],
  ),
]


def printed(machine, script, args, env):
  """Returns the lines that --dry_run prints; checks that it runs nothing."""
  at = args.index('--') if '--' in args else len(args)
  args = [*args[:at], '--dry_run', *args[at:]]
  lines = machine.run(script, *args, **env).stdout.splitlines()
  assert machine.calls() == []
  assert not (machine.clone / 'build').exists()
  return lines


@pytest.mark.parametrize('script, args, expected, env', CASES)
def test_dry_run_prints_the_commands_that_run(
  machine, script, args, expected, env
):
  subprocess.run(['git', 'init', '-q'], cwd=machine.clone, check=True)
  args = shlex.split(args)
  lines = printed(machine, script, args, env)
  if script == 'slurm.sbatch':
    # These run only at the time limit.
    assert lines[1:] == [
      '# before the time limit:',
      'scancel --signal=TERM 7',
      'scontrol requeue 7',
    ]
    del lines[1:]
  assert lines == expected
  machine.run(script, *args, **env)
  wanted = [shlex.split(line.removesuffix(' &')) for line in lines]
  ran = machine.calls()
  if lines[0].endswith(' &'):
    ran.sort()  # the processes run concurrently
  assert ran == [call for call in wanted if call[0] in PROGRAMS]


@pytest.mark.parametrize(
  'script, args, complaint',
  [
    ('local.sh', '--device=2 -- x', '--device=2: expected one of --processes'),
    ('local.sh', '--devices=0 -- x', '--devices=0: expected a whole number'),
    ('local.sh', '', '--: expected, and flags of sqlm_jax.main'),
    ('gpu.sh', '--gpus= -- x', '--gpus=: expected one of --gpus=I,J'),
    ('gpu.sh', '--gpus=all -- x', '--gpus=all: expected numbers such as 0,1'),
    ('gpu.sh', '--memory=1.5 -- x', '--memory=1.5: expected a number between'),
    ('gpu.sh', '--', '--: expected, and flags of sqlm_jax.main'),
    ('slurm.sbatch', '--dry', '--dry: expected --dry_run, or --'),
    ('slurm.sbatch', '-- x', 'SLURM_JOB_ID, SLURM_JOB_NUM_NODES: expected'),
    ('tpu_vm.sh', '', 'no action: expected one of start, status'),
    ('tpu_vm.sh', 'run', 'run: expected one of start, status'),
    ('tpu_vm.sh', 'stop --zone=z', '--name: expected'),
    ('tpu_vm.sh', 'stop --name=t', '--zone: expected'),
    ('tpu_vm.sh', 'stop --nam=t', '--nam=t: expected one of --name=NAME'),
    ('tpu_vm.sh', 'start --name=t --zone=z', '--: expected, and flags'),
    ('tpu_vm.sh', 'start --name=t --zone=z -- x', '--type: expected'),
    (
      'tpu_vm.sh',
      'start --name=t --zone=z --type=v9-4 -- x',
      '--type=v9-4: expected v4-N, v5litepod-N, v5p-N or v6e-N',
    ),
    ('xpk.sh', 'stop', 'stop: expected one of start, status, logs, delete'),
    ('xpk.sh', 'logs --workload=w', '--cluster: expected'),
    ('xpk.sh', 'logs --slices=2', '--slices=2: expected one of --workload'),
    (
      'xpk.sh',
      f'start {" ".join(XPK)} --num_slices=two -- x',
      '--num_slices=two: expected a whole number above 0',
    ),
    (
      'xpk.sh',
      f'start {" ".join(XPK)} --type=v6e-16 -- --workdir=runs/a',
      '--workdir=gs://…: expected after --',
    ),
  ],
)
def test_errors_say_what_is_expected(machine, script, args, complaint):
  found = machine.run(script, *shlex.split(args), code=2)
  assert found.stderr.startswith(f'launch/{script}: {complaint}')
  assert (found.stdout, machine.calls()) == ('', [])


def test_slurm_requires_one_task_per_node_or_per_gpu(machine):
  env = ON_SLURM | {'SLURM_GPUS_ON_NODE': '4', 'SLURM_NTASKS': '3'}
  found = machine.run('slurm.sbatch', '--', 'x', code=2, **env)
  assert 'SLURM_NTASKS=3: expected one per node (2) or one per GPU (8)' in (
    found.stderr
  )


@pytest.mark.parametrize(
  'script, env',
  [('local.sh', {}), ('gpu.sh', {}), ('slurm.sbatch', ON_SLURM)],
)
def test_arguments_survive(machine, script, env):
  lines = printed(machine, script, ['--', *stand_ins.NASTY], env)
  # The printed command can be pasted into a shell.
  machine.shell(lines[0])
  machine.run(script, '--', *stand_ins.NASTY, **env)
  pasted, run = machine.calls()
  assert pasted == run
  assert tuple(run[-len(stand_ins.NASTY) :]) == stand_ins.NASTY


def test_shellcheck_reports_nothing():
  shellcheck = pathlib.Path(sysconfig.get_path('scripts')) / 'shellcheck'
  found = subprocess.run([shellcheck, *SCRIPTS], capture_output=True, text=True)
  assert found.returncode == 0, found.stdout + found.stderr


def documented_commands():
  text = (ROOT / 'docs' / 'launch.md').read_text().replace('\\\n', ' ')
  lines = re.findall(r'^\s*(?:launch/|sbatch ).*$', text, re.MULTILINE)
  return [line.strip() for line in lines]


@pytest.mark.parametrize('line', documented_commands())
def test_documented_commands_are_accepted(machine, line):
  script, _, args = line.partition('launch/')[2].partition(' ')
  assert ROOT / 'launch' / script in SCRIPTS
  assert printed(machine, script, shlex.split(args), ON_SLURM)
