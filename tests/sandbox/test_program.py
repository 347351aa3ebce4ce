"""Programs in a sandbox behave as under `python program.py < input`."""

import os
import shutil
import subprocess
import sys

import pytest

from sqlm_jax.game import types
from sqlm_jax.sandbox import outcomes, sandbox

needs_bubblewrap = pytest.mark.skipif(
  not shutil.which('bwrap'), reason='bubblewrap is not installed'
)
INPUT = '5\n1 2 3 4 5\nabc def\n'

# Ways to read input that occur in solutions of programming contests.
READING = {
  'a file of known size': """
import io, os
input = io.BytesIO(os.read(0, os.fstat(0).st_size)).readline
print(int(input()), input())""",
  'mmap': """
import mmap
m = mmap.mmap(0, 0, access=mmap.ACCESS_READ)
print(m.readline(), m.read(), len(m))""",
  'private mmap': """
import mmap
m = mmap.mmap(0, 0, flags=mmap.MAP_PRIVATE, prot=3)
m[0:1] = b'x'
print(m[:])""",
  'mmap to write': 'import mmap\nmmap.mmap(0, 0)',
  'writes to stdin': 'import os\nos.write(0, b"x")',
  'opens /dev/stdin': 'print(open("/dev/stdin").read())',
  'opens /dev/stdin late': 'input()\nprint(open("/dev/stdin").readlines())',
  'opens /dev/fd/0': 'print(open("/dev/fd/0").read())',
  'opens 0': 'print(open(0).read())',
  'opens 0 as bytes': 'print(open(0, "rb").read().split())',
  'the buffer': 'import sys\nprint(sys.stdin.buffer.read())',
  'readline': """
import sys
input = sys.stdin.readline
n = int(input())
print(n, list(map(int, input().split())), repr(input()), repr(input()))""",
  'readline of the buffer': """
import sys
input = sys.stdin.buffer.readline
print(input(), input())""",
  'fileinput': """
import fileinput
for line in fileinput.input(): print(line, fileinput.filename())""",
  'iter': 'for line in iter(input, "abc def"): print(line)',
  'to the end': """
while True:
  try: print(input())
  except EOFError: break""",
  'seek': """
import sys
read = sys.stdin.read
print(read(), sys.stdin.seek(0), read(), sys.stdin.tell())""",
  'select': 'import select\nprint(select.select([0], [], [], 1)[0])',
  'a prompt': 'print(input("How many? "))',
  'FastIO': """
import os, sys
from io import BytesIO, IOBase
class FastIO(IOBase):
  def __init__(self, file):
    self._fd, self.buffer = file.fileno(), BytesIO()
    self.newlines, self.writable = 0, 'r' not in file.mode
  def readline(self):
    while self.newlines == 0:
      b = os.read(self._fd, max(os.fstat(self._fd).st_size, 8192))
      self.newlines = b.count(b'\\n') + (not b)
      at = self.buffer.tell()
      self.buffer.seek(0, 2), self.buffer.write(b), self.buffer.seek(at)
    self.newlines -= 1
    return self.buffer.readline().decode()
  def write(self, text):
    self.buffer.write(text.encode())
  def flush(self):
    if self.writable:
      os.write(self._fd, self.buffer.getvalue())
      self.buffer.truncate(0), self.buffer.seek(0)
sys.stdin, sys.stdout = FastIO(sys.stdin), FastIO(sys.stdout)
print(sys.stdin.readline(), sys.stdin.readline())""",
  'what the streams are': """
import sys
for s in (sys.stdin, sys.stdout, sys.stderr):
  print(s.name, s.mode, s.encoding, s.errors, s.isatty(), s.fileno(),
        s.line_buffering, s.write_through, s.buffer.mode, s.closed)
print(sys.stdin.seekable(), sys.stdin is sys.__stdin__)""",
}

WRITING = {
  'lines': 'import sys\nsys.stdout.writelines(["a\\n", "b\\n"])',
  'bytes': 'import sys\nsys.stdout.buffer.write(b"a\\n")\nprint("b")',
  'os.write': 'import os\nos.write(1, b"a\\n")',
  'much': 'print("a" * 10**6)',
  'opens /dev/stdout': """
print(1, flush=True)
with open('/dev/stdout', 'w') as f: f.write('2\\n')
print(3)""",
  'opens /dev/stderr': 'open("/dev/stderr", "w").write("x")\nprint(1)',
  'streams of its own': """
import sys
sys.stdin, sys.stdout = open('/dev/stdin'), open('/dev/stdout', 'w')
print(input())""",
  'os.fdopen': """
import os, sys
sys.stdout = os.fdopen(1, 'w', 1)
print(1)""",
  'a file never closed': 'f = open(1, "w")\nf.write("hello")',
  'a file that a function holds': """
out = open(1, 'w', closefd=False)
out.write('hello')
def f(): return out""",
  'a file that a module holds': """
import sys
sys.out = open(1, 'w')
sys.out.write('hello')""",
  'a file through a copy': """
import os
os.dup2(os.open('o', os.O_RDWR | os.O_CREAT), 9)
saved = os.dup(1)
print(1, flush=True)
os.dup2(9, 1)
print(2, flush=True)
os.dup2(saved, 1)
print(open('o').read())""",
}

ENDING = {
  'sys.exit with text': 'print(1)\nimport sys\nsys.exit("text")',
  'sys.exit(-1)': 'print(1)\nimport sys\nsys.exit(-1)',
  'exit(256)': 'print(1)\nexit(256)',
  'a large status': 'print(1)\nraise SystemExit(2**70)',
  'True as a status': 'print(1)\nraise SystemExit(True)',
  '0.0 as a status': 'print(1)\nraise SystemExit(0.0)',
  'a tuple as a status': 'print(1)\nraise SystemExit((0,))',
  'SystemExit': 'print(1)\nraise SystemExit',
  'quit': 'print(1)\nquit()\nprint(2)',
  'the name of exit': 'exit\nprint(exit)',
  'exit closes stdin': """
try: exit()
except SystemExit: print(__import__('sys').stdin.closed)""",
  'os._exit': 'import os\nprint(1)\nos._exit(0)',
  'os._exit, flushed': 'import os\nprint(1, flush=True)\nos._exit(0)',
  'os._exit(3)': 'import os\nprint(1, flush=True)\nos._exit(3)',
  'abort': 'import os\nprint(1, flush=True)\nos.abort()',
  'kills itself': 'import os\nprint(1, flush=True)\nos.kill(os.getpid(), 9)',
  'stdout closed': 'import sys\nprint(1)\nsys.stdout.close()',
  'both closed': """
import sys
print(1)
sys.stdout.close(), sys.stderr.close()""",
  'stderr None': 'import sys\nprint(1)\nsys.stderr = None',
  'stdout None': 'import sys\nprint(1)\nsys.stdout = None\nprint(2)',
  'stdout deleted': 'import sys\nprint(1)\ndel sys.stdout',
  'stderr None, fails': 'import sys\nprint(1)\nsys.stderr = None\n1 / 0',
  'descriptor 1 closed': 'import os\nprint(1)\nos.close(1)',
  'descriptor 1 closed, flushed': """
import os
print(1, flush=True)
os.close(1)""",
  'stdin closed': 'import sys\nsys.stdin.close()\nprint(1)',
  'all closed': 'import os\nos.closerange(0, 9)',
  'atexit': 'import atexit\natexit.register(print, 2)\nprint(1)',
  'atexit fails': 'import atexit\natexit.register(lambda: 1 / 0)\nprint(1)',
  'atexit exits': 'import atexit\natexit.register(exit, 3)\nprint(1)',
  'atexit ends the process': """
import atexit, os
atexit.register(os._exit, 4)
print(1, flush=True)""",
  'atexit writes all': """
import atexit, io, sys
sys.stdout = buffer = io.StringIO()
@atexit.register
def write(): sys.__stdout__.write(buffer.getvalue())
print(1)""",
  'a destructor': """
class A:
  def __del__(self): print('del', len(name))
a, name = A(), 'name'
print(1)""",
  'a finalizer': """
import weakref
class A: pass
a = A()
weakref.finalize(a, print, 'end')
print(1)""",
  'a thread that is not waited for': """
import threading, time
def f(): time.sleep(0.1); print(2)
threading.Thread(target=f).start()
print(1)""",
  'a thread, and an exit': """
import sys, threading, time
def f(): time.sleep(0.1); print(2)
threading.Thread(target=f).start()
sys.exit(0)""",
  'a thread, and an error': """
import threading, time
def f(): time.sleep(0.1); print(2)
threading.Thread(target=f).start()
1 / 0""",
  'a daemon': """
import threading, time
def f(): time.sleep(50); print(2)
threading.Thread(target=f, daemon=True).start()
print(1)""",
  'an error in a thread': """
import threading
threading.Thread(target=lambda: 1 / 0).start()
print(1)""",
  'a pool of threads': """
from concurrent.futures import ThreadPoolExecutor
ThreadPoolExecutor(2).submit(print, 1)""",
  'an error': 'print(1)\n{}[0]',
  'KeyboardInterrupt': 'print(1)\nraise KeyboardInterrupt',
  'GeneratorExit': 'print(1)\nraise GeneratorExit',
  'recursion': 'def f(): f()\nf()',
  'a hook': 'import sys\nsys.excepthook = lambda *_: print("hook")\n1 / 0',
  'no garbage collection': 'import gc\ngc.disable()\nprint(1)',
}

RUNNING = {
  'what it is': """
import os, sys
print(os.path.basename(__file__), __name__, __spec__, __doc__, sys.argv)
print(len(open(__file__).read()), sorted(globals()))""",
  'a docstring': '"doc"\nprint(__doc__)',
  'annotations': 'x: int = 1\nprint(__annotations__)',
  'its source': """
import inspect
def f(): return 1
print(inspect.getsource(f))""",
  'pickle': """
import pickle
class A: x = 1
print(pickle.loads(pickle.dumps(A())).x)""",
  'a module of its own': """
open('mine.py', 'w').write('y = 3')
import mine
print(mine.y)""",
  'a byte order mark': '\ufeffprint(1)',
  'ends of lines': 'a = 1\r\nprint(a)\r\n',
  'a coding': '# -*- coding: utf-8 -*-\nprint("é")',
  'the future': 'from __future__ import annotations\nprint(1)',
  'no Python': 'print("a',
  'indented': '  print(1)',
  'an alarm': """
import signal, time
signal.signal(signal.SIGALRM, lambda *_: print('alarm'))
signal.setitimer(signal.ITIMER_REAL, 0.05)
time.sleep(0.2)""",
  'a temporary file': """
import tempfile
with tempfile.NamedTemporaryFile('w+') as f:
  f.write('a'), f.seek(0)
  print(f.read())""",
  'deep recursion': """
import sys
sys.setrecursionlimit(10**6)
def f(n): return n and 1 + f(n - 1)
print(f(10**5))""",
  'a larger stack of C': """
import resource
resource.setrlimit(resource.RLIMIT_STACK, (2**28, -1))
print(1)""",
  **{
    f'threads with stacks of {size}': f"""
import sys, threading
sys.setrecursionlimit(10**7)
threading.stack_size({size})
def f(n): return n and 1 + f(n - 1)
thread = threading.Thread(target=lambda: print(f(10**5), sum(range(10**6))))
thread.start()
thread.join()"""
    for size in ('2**26', '10**8', '2**27', '2**28', '512 * 1024 * 1024')
  },
}
PROGRAMS = READING | WRITING | ENDING | RUNNING


@pytest.fixture(scope='module')
def answers():
  """Returns the worker's answers for every program, in both tests."""
  answers_by_name = {}
  result_of = outcomes.result_of

  def remember(answer, name):
    answers_by_name.setdefault(name, []).append(answer)
    return result_of(answer, name)

  limits = sandbox.Limits(
    cpu_seconds=30.0, wall_seconds=60.0, output_bytes=2**21
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(outcomes, 'result_of', remember)
    with sandbox.open_sandbox(workers=2, limits=limits) as opened:
      opened.run(
        [
          (source, [types.TestCase(INPUT, name)] * 2)
          for name, source in PROGRAMS.items()
        ]
      )
  return answers_by_name


@needs_bubblewrap
@pytest.mark.parametrize('name', PROGRAMS)
def test_programs_behave_as_under_python(name, answers, tmp_path):
  (tmp_path / 'input').write_text(INPUT)
  folder = tmp_path / 'work'
  folder.mkdir()
  (folder / 'program.py').write_text(PROGRAMS[name], newline='')
  with open(tmp_path / 'input') as file:
    real = subprocess.run(
      [sys.executable, '-X', 'utf8', 'program.py'],
      cwd=folder,
      stdin=file,
      capture_output=True,
      env={'HOME': str(folder), 'PYTHONHASHSEED': '0'},
    )
  last = real.stderr.strip().split(b'\n')[-1]
  for answer in answers[name]:
    status = os.waitstatus_to_exitcode(answer.status)
    assert (answer.why, status) == (b'-', real.returncode), answer
    assert answer.output == real.stdout
    assert answer.errors.strip().split(b'\n')[-1] == last


@needs_bubblewrap
def test_every_run_has_its_own_streams():
  # A run must not see what an earlier run did to its streams.
  source = """
import fcntl, os
n = int(input())
print(n, fcntl.fcntl(1, fcntl.F_GETFL) & os.O_NONBLOCK)
os.set_blocking(1, False)
if n == 1:
  os.close(1)
  again = os.open('/dev/stdout', os.O_WRONLY)
  os.write(again, b'again')
"""
  tests = [
    types.TestCase('1', 'again1 0'),
    types.TestCase('2', '2 0'),
    types.TestCase('33', '33 0'),
  ]
  with sandbox.open_sandbox(workers=1) as opened:
    (results,) = opened.run([(source, tests)])
  assert [result.status for result in results] == ['passed'] * 3
