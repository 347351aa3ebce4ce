"""Runs that the scripts of launch/ start, with substitutes for clouds."""

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tests.launch import stand_ins

ROOT = stand_ins.ROOT
NASTY = stand_ins.NASTY

# Runs until SIGTERM, and then takes a moment to save.
TRAINS = """
trap 'sleep 0.2; echo saved "${@: -1}"; exit ${CODE:-0}' TERM
echo training "$PWD" "${@: -1}"
for i in {1..600}; do sleep 0.1; done
"""
NOT_FOUND = (
  'ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: Resource '
  "'projects/p/locations/us-a/nodes/t' was not found"
)
DESCRIBE = f"""if [[ ${{STATE-}} ]]; then echo "$STATE"; else
  echo "{NOT_FOUND}" >&2; exit 1; fi"""
# One host: ssh runs a command in its home directory, scp copies into it.
GCLOUD = """
for word; do
  case $word in
    --command=*) command=${word#*=} ;;
    --output-directory=*) out=$PWD/${word#*=}/0.log ;;
  esac
done
case $4 in
  describe) DESCRIBE ;;
  scp) cp "$5" "$HOST" ;;
  ssh) cd "$HOST" && HOME=$HOST bash -c "$command" > "${out-/dev/stdout}" ;;
esac
""".replace('DESCRIBE', DESCRIBE)


@pytest.fixture
def machine(tmp_path):
  return stand_ins.Machine(tmp_path)


def wait_for(condition):
  for _ in range(500):
    if condition():
      return
    time.sleep(0.1)
  raise AssertionError('the condition never became true')


def git(machine, *args):
  author = ('-c', 'user.name=a', '-c', 'user.email=a@b')
  subprocess.run(['git', *author, *args], cwd=machine.clone, check=True)


@pytest.fixture
def work_tree(machine):
  """A clone with changed, new, deleted and ignored files."""
  (machine.clone / '.gitignore').write_text('runs/\nbuild/\n')
  (machine.clone / 'old.py').touch()
  git(machine, 'init', '-q')
  git(machine, 'add', '.')
  git(machine, 'commit', '-qm', 'All')
  (machine.clone / 'old.py').unlink()
  (machine.clone / 'sqlm_jax' / 'main.py').write_text('changed')
  (machine.clone / 'my config.py').touch()
  (machine.clone / 'runs').mkdir()
  (machine.clone / 'runs' / 'checkpoint').touch()
  return ['.gitignore', 'my config.py', 'sqlm_jax/main.py']


def files_in(directory):
  found = [p.relative_to(directory) for p in directory.rglob('*')]
  return sorted(str(p) for p in found if (directory / p).is_file())


def test_local_passes_signals_to_its_processes(machine):
  machine.add('python', TRAINS)
  process = machine.start('local.sh', '--processes=2', '--', 'x', CODE='3')
  printed = [process.stdout.readline() for _ in range(2)]
  assert printed == [f'training {machine.clone} x\n'] * 2
  process.send_signal(signal.SIGTERM)
  out, _ = process.communicate(timeout=60)
  # Both processes could save, and the script returns their exit code.
  assert out == 'saved x\n' * 2
  assert process.returncode == 3


def test_local_returns_the_exit_code_of_a_failed_process(machine):
  machine.add('python', '[[ $* != *--process_id=1* ]] || exit 7')
  machine.run('local.sh', '--processes=3', '--', 'x', code=7)


def test_local_runs_sqlm_jax():
  flags = ('--config=configs/smoke.py', '--mode=sample')
  found = subprocess.run(
    ['launch/local.sh', '--devices=2', '--', *flags],
    cwd=ROOT,
    env={**os.environ, 'PYTHON': sys.executable},
    input='1 + 1\n',
    check=True,
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert found.stderr.startswith('env JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=2')
  assert '[solver' in found.stderr
  assert found.stdout


TPU = ('--name=t', '--zone=us-a')


def test_start_status_stop_and_logs_on_a_tpu_vm(machine, tmp_path, work_tree):
  host = tmp_path / 'host'
  (host / 'venv' / 'bin').mkdir(parents=True)
  machine.add('python', TRAINS).rename(host / 'venv' / 'bin' / 'python')
  machine.add('gcloud', GCLOUD)
  for name in ('sudo', 'python3'):
    machine.add(name)  # installs nothing
  env = {'HOST': str(host), 'STATE': 'READY'}
  start = ('start', *TPU, '--type=v6e-16', '--', *NASTY)

  machine.run('tpu_vm.sh', *start, **env)
  wait_for(lambda: 'training' in (host / 'sqlm_jax.log').read_text())
  calls = machine.calls()
  python = next(call for call in calls if call[0] == 'python')
  expected = ('-m', 'sqlm_jax.main', '--distributed=auto', *NASTY)
  assert tuple(python[1:]) == expected
  installed = [call[1:] for call in calls if call[0] == 'python3']
  assert installed[-1][-2:] == ['-e', './sqlm_jax[tpu,gs]']
  # The working tree without ignored files.
  assert files_in(host / 'sqlm_jax') == work_tree
  assert (host / 'sqlm_jax' / 'sqlm_jax' / 'main.py').read_text() == 'changed'

  assert 'running\n' in machine.run('tpu_vm.sh', 'status', *TPU, **env).stdout
  refused = machine.run('tpu_vm.sh', *start, code=1, **env)
  assert 'a run is in progress: expected stop' in refused.stderr
  found = machine.run('tpu_vm.sh', 'stop', *TPU, **env)
  assert found.stdout.endswith(f'saved {NASTY[-1]}\n')
  found = machine.run('tpu_vm.sh', 'status', *TPU, **env)
  assert found.stdout.startswith('READY\nnot running\n')
  machine.run('tpu_vm.sh', 'logs', *TPU, **env)
  log = (machine.clone / 'runs' / 'logs' / 't' / '0.log').read_text()
  assert log.startswith(f'training {host}/sqlm_jax ')


@pytest.mark.parametrize(
  'state, verbs',
  [
    ('', ['describe', 'create', 'scp', 'ssh', 'ssh']),
    ('READY', ['describe', 'scp', 'ssh', 'ssh']),
    ('PREEMPTED', ['describe', 'delete', 'create', 'scp', 'ssh', 'ssh']),
  ],
)
def test_a_tpu_vm_is_created_reused_or_replaced(
  machine, work_tree, state, verbs
):
  machine.add('gcloud', f'[[ $4 != describe ]] || {{ {DESCRIBE}; }}')
  start = ('tpu_vm.sh', 'start', *TPU, '--type=v6e-16', '--spot')
  machine.run(*start, '--', 'x', STATE=state)
  ran = machine.calls()
  assert [call[4] for call in ran] == verbs
  lines = machine.run(*start, '--dry_run', '--', 'x').stdout.splitlines()
  printed = [shlex.split(line) for line in lines if line[:6] == 'gcloud']
  assert ran == [call for call in printed if call[4] in verbs]
  assert lines[1:6] == [
    '# if it was preempted:',
    'gcloud compute tpus tpu-vm delete t --quiet --zone=us-a',
    '# if it was preempted, or does not exist:',
    'gcloud compute tpus tpu-vm create t --accelerator-type=v6e-16 '
    '--version=v2-alpha-tpuv6e --spot --zone=us-a',
    '# then:',
  ]


def test_a_tpu_vm_in_another_state_is_not_changed(machine):
  machine.add('gcloud', 'echo STOPPING')
  found = machine.run(
    'tpu_vm.sh', 'start', *TPU, '--type=v6e-16', '--', 'x', code=2
  )
  assert 't is STOPPING: expected READY, PREEMPTED' in found.stderr
  assert [call[4] for call in machine.calls()] == ['describe']


@pytest.mark.parametrize(
  'said',
  [
    'ERROR: (gcloud.auth) There was a problem refreshing your access token',
    'ERROR: PERMISSION_DENIED: Permission tpu.nodes.get denied',
    'ERROR: UNAVAILABLE: The service is currently unavailable.',
    '',
  ],
)
@pytest.mark.parametrize('code', [1, 130])
def test_no_tpu_vm_is_created_if_its_state_is_unknown(machine, said, code):
  """A second slice would cost money."""
  machine.add('gcloud', f'echo "{said}" >&2; exit {code}')
  start = ('start', *TPU, '--type=v6e-16', '--', 'x')
  found = machine.run('tpu_vm.sh', *start, code=2)
  assert said in found.stderr
  assert 't: gcloud could not say whether it exists' in found.stderr
  assert [call[4] for call in machine.calls()] == ['describe']


def test_a_failure_aborts_a_start(machine, work_tree):
  machine.add('gcloud', '[[ $4 = describe ]] && echo READY')
  start = ('start', *TPU, '--type=v6e-16', '--', 'x')
  machine.run('tpu_vm.sh', *start, code=1)
  assert [call[4] for call in machine.calls()] == ['describe', 'scp']


def test_an_xpk_pod_runs_the_clone(machine, work_tree):
  for name in ('xpk', 'apt-get', 'pip', 'python'):
    machine.add(name)
  where = ('--workload=w', '--cluster=c', '--project=p', '--zone=us-a')
  flags = ('--workdir=gs://b/r', *NASTY)
  machine.run('xpk.sh', 'start', *where, '--type=v6e-16', '--', *flags)
  (called,) = machine.calls()
  (image,) = [w for w in called if w.startswith('--script-dir=')]
  assert image == '--script-dir=build/image'
  assert files_in(machine.clone / 'build' / 'image') == work_tree
  # xpk runs the command in a script of the pod.
  (command,) = [w for w in called if w.startswith('--command=')]
  machine.shell(f'({command.removeprefix("--command=")}) & wait $!')
  calls = machine.calls()
  assert [call[0] for call in calls] == ['apt-get', 'apt-get', 'pip', 'python']
  program = ('-m', 'sqlm_jax.main', '--distributed=auto')
  expected = (*program, '--stopped_exit_code=75', *flags)
  assert tuple(calls[-1][1:]) == expected


# Runs two tasks on two nodes, with the environment variables of srun.
SRUN = """
shift
export SLURM_NTASKS=2 SLURM_LOCALID=0 SLURM_STEP_NODELIST='localhost,b'
for SLURM_PROCID in 0 1; do
  export SLURM_PROCID
  "$@" &
  echo $! >> pids
done
wait; wait
"""
# JAX derives its port from the job id, which must be unique on this machine.
JOB = str(os.getpid())
ON_SLURM = stand_ins.ON_SLURM | {'SLURM_JOB_ID': JOB}


def test_slurm_tasks_connect_to_each_other(machine):
  machine.add('srun', SRUN)
  report = 'print(jax.process_index(), "of", jax.process_count(), flush=True)'
  program = f'import jax; jax.distributed.initialize(); {report}'
  machine.add(
    'python', f'exec {shlex.quote(sys.executable)} -c {shlex.quote(program)}'
  )
  env = ON_SLURM | {'JAX_PLATFORMS': 'cpu'}
  found = machine.run('slurm.sbatch', '--', 'x', **env)
  assert sorted(found.stdout.splitlines()) == ['0 of 2', '1 of 2']


def test_a_slurm_job_is_queued_again_at_its_time_limit(machine):
  machine.add('srun', SRUN)
  machine.add('python', TRAINS)
  machine.add('scancel', 'kill -TERM $(cat pids)')
  machine.add('scontrol')
  process = machine.start('slurm.sbatch', '--', 'x', **ON_SLURM)
  for _ in range(2):
    assert process.stdout.readline() == f'training {machine.clone} x\n'
  process.send_signal(signal.SIGUSR1)
  out, _ = process.communicate(timeout=60)
  assert (out, process.returncode) == ('saved x\n' * 2, 0)
  # The run has saved before the job is queued again.
  assert machine.calls()[-2:] == [
    ['scancel', '--signal=TERM', JOB],
    ['scontrol', 'requeue', JOB],
  ]


@pytest.mark.parametrize(
  'env, added',
  [
    ({'SKYPILOT_NUM_NODES': '1'}, ()),
    (
      {
        'SKYPILOT_NUM_NODES': '2',
        'SKYPILOT_NODE_IPS': '10.0.0.1\n10.0.0.2',
        'SKYPILOT_NODE_RANK': '1',
      },
      (
        '--coordinator_address=10.0.0.1:8476',
        '--num_processes=2',
        '--process_id=1',
      ),
    ),
    ({'EXTRAS': 'tpu,gs'}, ('--distributed=auto',)),
  ],
)
def test_sky_passes_the_flags(machine, env, added):
  task = yaml.safe_load((ROOT / 'launch' / 'sky.yaml').read_text())
  assert task['envs']['FLAGS'] is None  # SkyPilot requires a value
  assert task['resources']['use_spot'] is True
  envs = task['envs'] | env | {'FLAGS': shlex.join(NASTY)}
  for name in ('sudo', 'uv', 'python'):
    path = machine.add(name)
    for place in ('venv', '.local'):
      (machine.home / place / 'bin').mkdir(parents=True, exist_ok=True)
      (machine.home / place / 'bin' / name).symlink_to(path)
  machine.shell(task['setup'], **envs)
  assert machine.calls()[-1][-2:] == ['-e', f'.[{envs["EXTRAS"]}]']
  machine.shell(task['run'], **envs)
  (called,) = machine.calls()
  # A run that was preempted is restarted.
  (code,) = task['resources']['job_recovery']['recover_on_exit_codes']
  added = (*added, f'--stopped_exit_code={code}')
  assert tuple(called) == ('python', '-m', 'sqlm_jax.main', *added, *NASTY)
