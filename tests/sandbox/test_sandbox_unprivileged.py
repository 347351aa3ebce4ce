"""Sandboxes of an unprivileged user, who shares limits with the programs.

The kernel limits pages of pipes, processes and more for each user except root.
These tests open sandboxes in a process of an unprivileged user. If they run as
root, they mount the interpreter and this project in a separate mount namespace,
where that user can read them.
"""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
  not shutil.which('bwrap'), reason='bubblewrap is not installed'
)
ROOT = pathlib.Path(__file__).parents[2]
NOBODY = 65534
AS_NOBODY = f"""
set -e
mount -t tmpfs -o mode=0755 tmpfs /mnt
mkdir /mnt/python /mnt/project
mount --bind {shlex.quote(sys.base_prefix)} /mnt/python
mount --bind {shlex.quote(str(ROOT))} /mnt/project
cd /
exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups \\
  env -i PATH="$PATH" PYTHONPATH=/mnt/project PYTHONDONTWRITEBYTECODE=1 \\
  {shlex.quote(f'/mnt/python/bin/python3.{sys.version_info.minor}')} -c "$1"
"""

PREAMBLE = """
import json, os, resource, struct, sys, time
from sqlm_jax.game import types
from sqlm_jax.sandbox import sandbox, seccomp
everything = struct.pack('=HBBI', 6, 0, 0, 0x7FFF0000)
def case(given, expected): return types.TestCase(given, expected)
def run_programs(programs, *, filtered=True, **limits):
  if not filtered:
    seccomp.filters = lambda: seccomp.Filters(everything, everything)
  limits = sandbox.Limits(cpu_seconds=10.0, **limits)
  opened = sandbox.open_sandbox(workers=2, limits=limits)
  rows = opened.run(programs)
  start = time.monotonic()
  opened.close()
  return {
    'uid': os.getuid(),
    'rows': [[result.status for result in row] for row in rows],
    'details': [[result.detail for result in row] for row in rows],
    'lost': sum(sandbox.is_lost(result) for row in rows for result in row),
    'closing': time.monotonic() - start,
  }
SUM = 'a, b = map(int, input().split())\\nprint(a + b)'
sums = [(SUM, [case(f'{i} {i}', f'{2 * i}')]) for i in range(40)]
"""

# Closed pipes remain allocated while a thread polls them.
PIPES = """
import fcntl, os, select, threading, time
made = 0
for _ in range(6):
  poll, ends = select.poll(), []
  for _ in range(28):
    ends += os.pipe()
    size = 2**20
    while size > 2**12:
      try:
        fcntl.fcntl(ends[-1], 1031, size)
        break
      except OSError:
        size //= 2
    made += size // 2**12
  for end in ends: poll.register(end, 0)
  threading.Thread(target=poll.poll, args=(60000,), daemon=True).start()
  time.sleep(0.05)
  for end in ends: os.close(end)
print(made, flush=True)
time.sleep(60)
"""


def run(script: str) -> dict:
  """Runs a script as an unprivileged user and returns the report it prints."""
  command = [sys.executable, '-c', PREAMBLE + script]
  if os.geteuid() == 0:
    command = ['unshare', '--mount', 'sh', '-c', AS_NOBODY, 'sh', command[-1]]
  process = subprocess.run(command, capture_output=True, text=True, timeout=300)
  assert process.returncode == 0, process.stderr
  report = json.loads(process.stdout.splitlines()[-1])
  assert report['uid'] != 0
  return report


@pytest.mark.parametrize('filtered', [True, False])
def test_used_up_pipe_buffers_do_not_block_the_host(filtered):
  report = run(f"""
pipes = ({PIPES!r}, [case('', '')])
programs = [pipes, *sums[:20], pipes, *sums[20:]]
report = run_programs(programs, filtered={filtered}, wall_seconds=6.0)
print(json.dumps(report))
""")
  pipes = [report['rows'].pop(i) for i in (21, 0)]
  assert pipes == [['error' if filtered else 'timeout']] * 2
  assert report['rows'] == [['passed']] * 40
  assert report['lost'] == 0
  assert report['closing'] < 20


@pytest.mark.parametrize('filtered', [True, False])
def test_programs_cannot_close_their_own_sandbox(filtered):
  report = run(f"""
close = "import os\\nos.chmod('/tmp', 0)\\n"
programs = [(close, [case('', 'x'), case('', 'x')]), *sums]
report = run_programs(programs, filtered={filtered}, wall_seconds=60.0)
print(json.dumps(report))
""")
  assert report['lost'] == 0
  assert report['rows'][0] == ['error' if filtered else 'wrong'] * 2
  if filtered:
    denied = "PermissionError: [Errno 1] Operation not permitted: '/tmp'"
    assert report['details'][0] == [denied] * 2
  assert report['rows'][1:] == [['passed']] * 40


@pytest.mark.parametrize('kind', ['NPROC', 'NOFILE'])
def test_exhausted_user_limits_are_reported(kind):
  report = run(f"""
opened = sandbox.open_sandbox(workers=1)
_, hard = resource.getrlimit(resource.RLIMIT_{kind})
soft = len(os.listdir('/proc/self/fd')) if {kind!r} == 'NOFILE' else 1
resource.setrlimit(resource.RLIMIT_{kind}, (soft, hard))
try:
  opened.run(sums)
  error = ''
except RuntimeError as raised:
  error = str(raised)
resource.setrlimit(resource.RLIMIT_{kind}, (hard, hard))
# The sandbox works again as soon as the limit is raised.
again = opened.run(sums)
opened.close()
print(json.dumps({{
  'uid': os.getuid(),
  'error': error,
  'again': sum(result.status == 'passed' for row in again for result in row),
}}))
""")
  words = {'NPROC': 'temporarily unavailable', 'NOFILE': 'open files'}
  assert words[kind] in report['error']
  assert report['again'] == 40
