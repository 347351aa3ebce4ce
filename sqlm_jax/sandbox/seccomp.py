"""System call filters: the kernel refuses all calls that are not listed.

The lists contain the calls that a Python interpreter needs to compute, read and
print. A list of dangerous calls would be out of date with the next kernel.
Sockets, mounts, namespaces, ptrace, bpf, keys, io_uring, shared memory and all
other calls outside the lists fail with ENOSYS. This includes pipes, epoll and
eventfd: the kernel charges them to the user who runs the sandbox, and a program
can keep more of them than it has file descriptors.

The filters are classic BPF, see seccomp(2), and bpf(4) of FreeBSD. The numbers
are from the kernel's asm/unistd_64.h and asm-generic/unistd.h.
"""

import platform
import struct
from collections.abc import Iterable
from typing import NamedTuple

# Name, number on x86_64, number on aarch64.
_PROGRAM = """
  read 0 63; write 1 64; readv 19 65; writev 20 66; pread64 17 67;
  pwrite64 18 68; open 2 -; openat 257 56; close 3 57; close_range 436 436;
  stat 4 -; fstat 5 80; lstat 6 -; newfstatat 262 79; statx 332 291;
  access 21 -; faccessat 269 48; faccessat2 439 439; lseek 8 62; mmap 9 222;
  mprotect 10 226; munmap 11 215; mremap 25 216; brk 12 214; madvise 28 233;
  rt_sigaction 13 134; rt_sigprocmask 14 135; rt_sigreturn 15 139;
  rt_sigpending 127 136; rt_sigtimedwait 128 137; rt_sigsuspend 130 133;
  sigaltstack 131 132; poll 7 -; ppoll 271 73; select 23 -; pselect6 270 72;
  dup 32 23; dup2 33 -; dup3 292 24; flock 73 32; fsync 74 82;
  fdatasync 75 83; truncate 76 45; ftruncate 77 46; getdents64 217 61;
  getcwd 79 17; chdir 80 49; fchdir 81 50; rename 82 -; renameat 264 38;
  renameat2 316 276; mkdir 83 -; mkdirat 258 34; rmdir 84 -; unlink 87 -;
  unlinkat 263 35; symlink 88 -; symlinkat 266 36; readlink 89 -;
  readlinkat 267 78; umask 95 166; utimensat 280 88; statfs 137 43;
  fstatfs 138 44; getpid 39 172;
  gettid 186 178; getppid 110 173; getuid 102 174; geteuid 107 175;
  getgid 104 176; getegid 108 177; getgroups 115 158; getresuid 118 148;
  getresgid 120 150; getpgrp 111 -; getpgid 121 155; getsid 124 156;
  times 100 153; getrusage 98 165; getrlimit 97 163; setrlimit 160 164;
  sysinfo 99 179; uname 63 160; gettimeofday 96 169; time 201 -;
  clock_gettime 228 113; clock_getres 229 114; clock_nanosleep 230 115;
  nanosleep 35 101; getitimer 36 102; setitimer 38 103; alarm 37 -;
  pause 34 -; sched_yield 24 124; sched_getaffinity 204 123; getcpu 309 168;
  futex 202 98; set_robust_list 273 99; get_robust_list 274 100;
  set_tid_address 218 96; rseq 334 293; exit 60 93; exit_group 231 94;
  kill 62 129; tkill 200 130; tgkill 234 131; getrandom 318 278;
  arch_prctl 158 -; restart_syscall 219 128; membarrier 324 283
"""
# Additional calls that are needed to start and end a program.
_SUPERVISOR = """
  execve 59 221; wait4 61 260; prctl 157 167; seccomp 317 277;
  mknod 133 -; mknodat 259 33; chmod 90 -; fchmodat 268 53;
  setgroups 116 159; setresgid 119 149; setresuid 117 147; setpgid 109 154
"""
# Denied to a program (EPERM), because its user owns directories that it must
# not change or close.
_DENIED = """
  chmod 90 -; fchmod 91 52; fchmodat 268 53
"""
# Allowed for certain arguments only.
_CHECKED = """
  clone 56 220; ioctl 16 29; prlimit64 302 261; fcntl 72 25
"""


class Filters(NamedTuple):
  """Two filters, each an array of the kernel's struct sock_filter."""

  supervisor: bytes  # for the process that starts and watches a program
  program: bytes  # additionally for the program: no new process, no exec


class _Machine(NamedTuple):
  column: int
  audit: int  # AUDIT_ARCH_* of linux/audit.h


_MACHINES = {
  'x86_64': _Machine(1, 0xC000003E),
  'aarch64': _Machine(2, 0xC00000B7),
}

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | 38  # ENOSYS, which libraries handle
_DENY = 0x00050000 | 1  # EPERM
_KILL = 0x80000000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # in struct seccomp_data

_CLONE_THREAD = 0x00010000
# NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_CLONE_NAMESPACES = 0x7E020080
_TERMINAL_OR_NOT = 0x5401  # TCGETS, which isatty uses
_IOCTLS = (_TERMINAL_OR_NOT, 0x5450, 0x5451, 0x5421, 0x541B)  # FIO*
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC. Other commands
# use kernel memory that is charged to the user: pipes, locks, leases.
_FCNTLS = (0, 1, 2, 3, 4, 1030)

_Code = list[tuple[int, int, int, int]]  # code, jump if true, if false, operand


def filters(machine: str | None = None) -> Filters:
  """Returns the filters for a machine type, by default the current one.

  Raises:
    RuntimeError: if the machine type's system call numbers are unknown.
  """
  machine = machine or platform.machine()
  if machine not in _MACHINES:
    raise RuntimeError(
      f'{machine=}: expected one of {sorted(_MACHINES)}, whose system calls '
      'are known'
    )
  column, audit = _MACHINES[machine]
  program = _numbers(_PROGRAM, column)
  supervisor = program | _numbers(_SUPERVISOR, column)
  checked = _numbers(_CHECKED, column)
  common = {
    checked['ioctl']: _one_of(1, _IOCTLS),
    checked['fcntl']: _one_of(1, _FCNTLS),
    checked['prlimit64']: _one_of(0, [0]),  # only for the calling process
  }
  clone = checked['clone']
  denied = {
    number: [(_RETURN, 0, 0, _DENY)]
    for number in _numbers(_DENIED, column).values()
  }
  return Filters(
    _assemble(audit, supervisor.values(), common | {clone: _flags(0, 0)}),
    _assemble(
      audit,
      program.values(),
      common | denied | {clone: _flags(0, _CLONE_THREAD)},
    ),
  )


def _numbers(table: str, column: int) -> dict[str, int]:
  rows = [row.split() for row in table.split(';')]
  return {row[0]: int(row[column]) for row in rows if row[column] != '-'}


def _assemble(
  audit: int, allowed: Iterable[int], checked: dict[int, _Code]
) -> bytes:
  """Assembles a filter that compares the number with each call in turn.

  A linear search keeps the jump offsets within their 8 bits.
  """
  code: _Code = [
    (_LOAD, 0, 0, _ARCHITECTURE),
    (_EQUAL, 1, 0, audit),
    (_RETURN, 0, 0, _KILL),  # other architectures have other numbers
    (_LOAD, 0, 0, _NUMBER),
  ]
  for number in allowed:
    code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
  for number, check in checked.items():
    code += [(_EQUAL, 0, len(check), number), *check]
  code.append((_RETURN, 0, 0, _REFUSE))
  return b''.join(struct.pack('=HBBI', *line) for line in code)


def _one_of(argument: int, values: Iterable[int]) -> _Code:
  """Returns code that allows a call if an argument has one of the values."""
  code: _Code = [(_LOAD, 0, 0, _ARGUMENTS + 8 * argument)]
  for value in values:
    code += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
  return [*code, (_RETURN, 0, 0, _REFUSE)]


def _flags(argument: int, needed: int) -> _Code:
  """Returns code that allows a clone without namespaces and with a flag.

  Args:
    argument: the index of the argument that holds the flags.
    needed: the flag that must be set, 0 for none.
  """
  code: _Code = [
    (_LOAD, 0, 0, _ARGUMENTS + 8 * argument),
    (_ANY_BIT, 0, 1, _CLONE_NAMESPACES),
    (_RETURN, 0, 0, _REFUSE),
  ]
  if needed:
    code += [(_ANY_BIT, 1, 0, needed), (_RETURN, 0, 0, _REFUSE)]
  return [*code, (_RETURN, 0, 0, _ALLOW)]
