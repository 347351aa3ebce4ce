import pathlib
import re
import struct

import pytest

from sqlm_jax.sandbox import seccomp

ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050026, 0x80000000
DENY = 0x00050001  # EPERM
X86, ARM = 0xC000003E, 0xC00000B7


def decide(code: bytes, audit: int, number: int, *arguments: int) -> int:
  """Returns the decision of a filter by the rules of classic BPF."""
  data = struct.pack('<IIQ', number, audit, 0)
  data += b''.join(
    struct.pack('<Q', a & (2**64 - 1)) for a in (*arguments, *[0] * 6)[:6]
  )
  lines = list(struct.iter_unpack('<HBBI', code))
  position = value = 0
  while True:
    kind, jump, other, operand = lines[position]
    position += 1
    if kind == 0x20:
      [value] = struct.unpack_from('<I', data, operand)
    elif kind == 0x15:
      position += jump if value == operand else other
    elif kind == 0x45:
      position += jump if value & operand else other
    else:
      assert kind == 0x06
      return operand


@pytest.mark.parametrize(
  'machine, audit, column', [('x86_64', X86, 0), ('aarch64', ARM, 1)]
)
def test_filters_allow_exactly_the_listed_calls(machine, audit, column):
  supervisor, program = seccomp.filters(machine)
  thread, process, user = 0x3D0F00, 0x1200011, 0x10000000
  for numbers, arguments, by_supervisor, by_program in (
    ((0, 63), (), ALLOW, ALLOW),  # read
    ((231, 94), (), ALLOW, ALLOW),  # exit_group
    ((59, 221), (), ALLOW, REFUSE),  # execve
    ((157, 167), (), ALLOW, REFUSE),  # prctl
    ((56, 220), (thread,), ALLOW, ALLOW),  # clone
    ((56, 220), (process,), ALLOW, REFUSE),
    ((56, 220), (process | user,), REFUSE, REFUSE),
    ((56, 220), (thread | user,), REFUSE, REFUSE),
    ((435, 435), (), REFUSE, REFUSE),  # clone3
    ((302, 261), (0,), ALLOW, ALLOW),  # prlimit64 of itself
    ((302, 261), (1,), REFUSE, REFUSE),  # of its supervisor
    ((16, 29), (0, 0x5401), ALLOW, ALLOW),  # ioctl TCGETS
    ((16, 29), (0, 0x5412), REFUSE, REFUSE),  # TIOCSTI
    ((72, 25), (1, 4), ALLOW, ALLOW),  # fcntl F_SETFL
    ((72, 25), (1, 1030), ALLOW, ALLOW),  # F_DUPFD_CLOEXEC
    ((72, 25), (1, 1031), REFUSE, REFUSE),  # F_SETPIPE_SZ
    ((72, 25), (1, 6), REFUSE, REFUSE),  # F_SETLK
    ((72, 25), (1, 1024), REFUSE, REFUSE),  # F_SETLEASE
    ((293, 59), (), REFUSE, REFUSE),  # pipe2
    ((291, 20), (), REFUSE, REFUSE),  # epoll_create1
    ((290, 19), (), REFUSE, REFUSE),  # eventfd2
    ((268, 53), (), ALLOW, DENY),  # fchmodat
    ((91, 52), (), REFUSE, DENY),  # fchmod
    ((259, 33), (), ALLOW, REFUSE),  # mknodat
    ((101, 117), (), REFUSE, REFUSE),  # ptrace
    ((41, 198), (1,), REFUSE, REFUSE),  # socket
    ((272, 97), (user,), REFUSE, REFUSE),  # unshare
    ((425, 425), (), REFUSE, REFUSE),  # io_uring_setup
    ((0x40000000, 2**31), (), REFUSE, REFUSE),  # x32, and no call at all
  ):
    number = numbers[column]
    assert decide(supervisor, audit, number, *arguments) == by_supervisor
    assert decide(program, audit, number, *arguments) == by_program


def test_calls_of_other_architectures_kill():
  assert decide(seccomp.filters('x86_64').program, ARM, 0) == KILL
  assert decide(seccomp.filters('aarch64').program, X86, 63) == KILL
  i386 = 0x40000003
  assert decide(seccomp.filters('x86_64').supervisor, i386, 3) == KILL


def test_filters_fit_the_length_limit_of_the_kernel():
  for machine in ('x86_64', 'aarch64'):
    for code in seccomp.filters(machine):
      assert len(code) // 8 <= 4096  # BPF_MAXINSNS


@pytest.mark.parametrize(
  'header, column',
  [
    ('x86_64-linux-gnu/asm/unistd_64.h', 1),
    ('asm-generic/unistd.h', 2),
  ],
)
def test_system_call_numbers_match_the_kernel_headers(header, column):
  path = pathlib.Path('/usr/include', header)
  if not path.exists():
    return  # checked only where the kernel headers are installed
  header_numbers = dict(
    re.findall(r'#define __NR3?2?6?4?_(\w+) (\d+)', path.read_text())
  )
  tables = (
    seccomp._PROGRAM,
    seccomp._SUPERVISOR,
    seccomp._DENIED,
    seccomp._CHECKED,
  )
  numbers = {
    k: v for t in tables for k, v in seccomp._numbers(t, column).items()
  }
  fstatat = header_numbers.get('fstatat')
  header_numbers.setdefault('newfstatat', fstatat)
  assert {name: int(header_numbers[name]) for name in numbers} == numbers


def test_unknown_machines_are_refused():
  with pytest.raises(RuntimeError, match="machine='riscv64'"):
    seccomp.filters('riscv64')
