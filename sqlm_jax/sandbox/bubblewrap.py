"""The bubblewrap command line, which defines a sandbox's files and user."""

import functools
import json
import os
import pathlib
import re
import subprocess
import sys
import sysconfig
from collections.abc import Sequence

_NOBODY = 65534  # the user id of a program outside the sandbox, if we are root
STREAMS = '/dev'  # directory for the files of the standard streams
# Extension modules that need parts of a system that a sandbox does not have.
_NOT_NEEDED = re.compile('_tkinter|readline|_curses|nis|_g?dbm|_ssl|_test')


def map_users(info: bytes) -> None:
  """Maps the program of a sandbox that root started to another user.

  The kernel does not limit the number of root's processes, and a program that
  ran as root would own root's files if it ever had access to them.
  """
  pid = json.loads(info)['child-pid']
  for kind in ('uid_map', 'gid_map'):
    path = pathlib.Path('/proc', str(pid), kind)
    path.write_text(f'0 0 1\n1000 {_NOBODY} 1\n', encoding='ascii')


def command(file_bytes: int, code: int, worker: int) -> list[str]:
  """Returns the command of bubblewrap, without the program that it runs.

  Args:
    file_bytes: maximum total size of the files that a program writes.
    code: a file descriptor of the system call filter.
    worker: a file descriptor of the compiled worker.
  """
  words = ['bwrap', '--unshare-user', '--unshare-pid', '--unshare-net']
  words += ['--unshare-ipc', '--unshare-uts', '--unshare-cgroup-try']
  # --die-with-parent is not used: bwrap would die as soon as this process does,
  # and a child that still waits for bwrap would then never end. The worker ends
  # by itself when this process does.
  words += ['--hostname', 'sandbox', '--new-session', '--as-pid-1']
  words += ['--clearenv', '--seccomp', str(code)]
  if os.geteuid() == 0:  # the worker drops root, see its _become_nobody
    words += ['--uid', '0', '--gid', '0']
    words += ['--cap-add', 'CAP_SETUID', '--cap-add', 'CAP_SETGID']
  else:
    words += ['--uid', '1000', '--gid', '1000']
  for name, value in (
    ('HOME', '/tmp'),
    ('LD_LIBRARY_PATH', '/lib'),
    ('PYTHONHOME', '/python'),
    ('PYTHONHASHSEED', '0'),  # makes results reproducible
  ):
    words += ['--setenv', name, value]
  words += _file_system()
  words += ['--perms', '0444', '--file', str(worker), '/worker.pyc']
  size = str(file_bytes)
  words += ['--perms', '0777', '--size', size, '--tmpfs', '/tmp']
  return [*words, '--chdir', '/tmp', '--remount-ro', '/']


@functools.cache
def _file_system() -> list[str]:
  """Returns the options that put only an interpreter into a sandbox.

  Paths inside the sandbox do not depend on the host, except for the path of the
  dynamic loader, which the binary contains.
  """
  binary = pathlib.Path(sys.executable).resolve()
  library = pathlib.Path(sysconfig.get_path('stdlib'))
  inside = '/python' / library.relative_to(pathlib.Path(sys.base_prefix))
  modules = library / 'lib-dynload'
  needed = [path for path in modules.glob('*.so') if _is_needed(path)]
  binds = {
    '/python/bin/python3': binary,
    str(inside): library,
    **_shared_libraries([binary, *needed]),
  }
  folders = {'/tmp', STREAMS, '/lib'}
  for path in binds:
    folders.update(map(str, pathlib.Path(path).parents))
  options = []
  for folder in sorted(folders - {'/'}):  # parents first
    options += ['--perms', '0755', '--dir', folder]
  for path, source in binds.items():
    options += ['--ro-bind', str(source), path]
  for name in ('site-packages', 'dist-packages', 'test'):
    if (library / name).is_dir():
      options += ['--tmpfs', str(inside / name)]
      options += ['--remount-ro', str(inside / name)]
  # This directory has no size limit because inputs may be large. The worker
  # makes it read-only for programs.
  options += ['--perms', '0755', '--tmpfs', STREAMS]
  options += ['--dev-bind', '/dev/null', '/dev/null']
  options += ['--perms', '0555', '--dir', '/dev/fd']
  for descriptor, name in enumerate(('stdin', 'stdout', 'stderr')):
    options += ['--symlink', f'{STREAMS}/{name}', f'/dev/fd/{descriptor}']
  return options


def _is_needed(module: pathlib.Path) -> bool:
  return not _NOT_NEEDED.match(module.name)


def _shared_libraries(files: Sequence[pathlib.Path]) -> dict[str, str]:
  """Returns shared libraries of the files: path in a sandbox -> host path."""
  output = subprocess.run(
    ['ldd', *files], capture_output=True, text=True, check=False, timeout=60
  ).stdout
  lines = re.findall(r'^\s+(?:(\S+) => )?(/\S+) \(0x', output, re.MULTILINE)
  return {f'/lib/{name}' if name else path: path for name, path in lines}
