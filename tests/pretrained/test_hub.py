"""FakeHub ids, resolved with a fake hub on the loopback address."""

import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading

import pytest

from sqlm_jax.pretrained import catalog, hub

COMMIT = '0123456789abcdef0123456789abcdef01234567'
FILES = {
  'config.json': b'{"model_type": "llama"}',
  'model.safetensors': b'weights' * 100,
  'tokenizer.json': b'{}',
  'README.md': b'not needed',
  'pytorch_model.bin': b'a pickle that nobody should open',
  'original/consolidated.safetensors': b'the same in another format',
}


class FakeHub(http.server.BaseHTTPRequestHandler):
  """The parts of the hub that `snapshot_download` uses."""

  protocol_version = 'HTTP/1.1'

  def answer(self, code, content=b'', **headers):
    self.send_response(code)
    for name, value in headers.items():
      self.send_header(name.replace('_', '-'), value)
    self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    if self.command == 'GET':
      self.wfile.write(content)

  def do_GET(self):
    self.server.requests.append(self.path)
    path = self.path.split('?')[0]
    if path.startswith('/api/models/org/'):
      return self.describe(path)
    name = path.partition(f'/org/tiny/resolve/{COMMIT}/')[2]
    if name not in FILES:
      return self.answer(404)
    content = FILES[name]
    digest = hashlib.sha256(content).hexdigest()
    return self.answer(200, content, ETag=f'"{digest}"', X_Repo_Commit=COMMIT)

  do_HEAD = do_GET

  def describe(self, path):
    name, _, rest = path.removeprefix('/api/models/org/').partition('/')
    revision = rest.removeprefix('revision/')
    if name == 'gated':
      return self.answer(403, X_Error_Code='GatedRepo')
    if name != 'tiny':
      return self.answer(404, X_Error_Code='RepoNotFound')
    if name == 'tiny' and '/tree/' in path:
      return self.list()
    if revision not in ('main', 'v1', COMMIT, ''):
      return self.answer(404, X_Error_Code='RevisionNotFound')
    files = [{'rfilename': name} for name in FILES]
    description = {'id': 'org/tiny', 'sha': COMMIT, 'siblings': files}
    return self.answer(
      200, json.dumps(description).encode(), Content_Type='application/json'
    )

  def list(self):
    rows = [
      {'type': 'file', 'path': name, 'size': len(content), 'oid': '0' * 40}
      for name, content in FILES.items()
    ]
    return self.answer(
      200, json.dumps(rows).encode(), Content_Type='application/json'
    )

  def log_message(self, *args):
    pass


@pytest.fixture
def server():
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), FakeHub)
  server.requests = []
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  yield server
  server.shutdown()
  server.server_close()


def resolve(path, cache, port, **environment):
  """Runs in a new process, because the library reads its address on import."""
  code = (
    'import sys\n'
    'from sqlm_jax.pretrained import catalog\n'
    'try:\n'
    '  print(catalog.resolve(sys.argv[1]))\n'
    'except (RuntimeError, OSError) as error:\n'
    '  sys.exit(f"{type(error).__name__}: {error}")\n'
  )
  clean = {k: v for k, v in os.environ.items() if not k.startswith('HF_')}
  clean |= {
    'HF_ENDPOINT': f'http://127.0.0.1:{port}',
    'HF_HUB_CACHE': str(cache),
    'HF_HUB_DISABLE_PROGRESS_BARS': '1',
    'NO_PROXY': '127.0.0.1',
  }
  return subprocess.run(
    [sys.executable, '-c', code, path],
    capture_output=True,
    text=True,
    timeout=60,
    env=clean | environment,
  )


@pytest.mark.parametrize('path', ['org/tiny', 'org/tiny@v1'])
def test_needed_files_are_fetched_once(path, server, tmp_path):
  process = resolve(path, tmp_path, server.server_port)
  assert process.returncode == 0, process.stderr
  directory = pathlib.Path(process.stdout.strip())
  assert directory.name == COMMIT
  names = {file.name for file in directory.rglob('*') if file.is_file()}
  assert names == {'config.json', 'model.safetensors', 'tokenizer.json'}
  for name in names:
    assert (directory / name).read_bytes() == FILES[name]
  assert not any(
    '.bin' in path or 'original' in path for path in server.requests
  )
  # Without the hub, the cached files are used.
  for environment in ({}, {'HF_HUB_OFFLINE': '1'}):
    again = resolve(path, tmp_path, 9, **environment)
    assert again.stdout == process.stdout, again.stderr


@pytest.mark.parametrize(
  'path, message',
  [
    ('org/other', "RuntimeError: model.path='org/other': no file or directory"),
    ('org/gated', "model.path='org/gated': access to the model is restri"),
    ('org/tiny@v9', "model.path='org/tiny@v9': the model has no revision 'v9'"),
  ],
)
def test_refusals_of_the_hub(path, message, server, tmp_path):
  process = resolve(path, tmp_path, server.server_port)
  assert process.returncode == 1
  assert message in process.stderr


@pytest.mark.parametrize('environment', [{}, {'HF_HUB_OFFLINE': '1'}])
def test_error_without_a_network(environment, tmp_path):
  process = resolve('org/tiny', tmp_path, 9, **environment)  # an unused port
  assert process.returncode == 1
  assert "model.path='org/tiny': no file or directory" in process.stderr
  assert 'could not be reached' in process.stderr
  assert 'Traceback' not in process.stderr


def test_local_paths_are_not_hub_ids(tmp_path, monkeypatch):
  (tmp_path / 'org' / 'tiny').mkdir(parents=True)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(
    hub, 'fetch', lambda path: pytest.fail('contacted the hub')
  )
  assert catalog.resolve('org/tiny') == pathlib.Path('org/tiny')


@pytest.mark.parametrize(
  'path, expected',
  [
    ('Qwen/Qwen2.5-0.5B-Instruct', True),
    ('org/name@a1b2c3', True),
    ('org/name@refs/pr/3', True),
    ('name', False),
    ('/models/name', False),
    ('./org/name', False),
    ('models/org/name', False),
    ('org/name@', False),
    ('~/name', False),
    ('', False),
  ],
)
def test_is_id(path, expected):
  assert hub.is_id(path) == expected
