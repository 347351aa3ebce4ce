"""Malformed model files, which must cause an error that names the file."""

import random
import signal

import numpy as np
import pytest

from sqlm_jax.pretrained import loader, names
from tests.pretrained import malformed

# transformers warns about settings that only tiny models have.
pytestmark = pytest.mark.filterwarnings('ignore')

_SECONDS = 60  # a case takes milliseconds unless it hangs


@pytest.fixture(autouse=True)
def _deadline():
  """Fails a test that hangs."""

  def stop(signum, frame):
    raise AssertionError(f'not done after {_SECONDS} seconds')

  before = signal.signal(signal.SIGALRM, stop)
  signal.alarm(_SECONDS)
  yield
  signal.alarm(0)
  signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope='module')
def originals(tmp_path_factory):
  """Returns an intact directory and an intact GGUF file."""
  path = tmp_path_factory.mktemp('originals')
  malformed.write_directory(path / 'directory')
  malformed.write_gguf(path / 'tiny.gguf')
  return {kind: path / kind for kind in ('directory', 'tiny.gguf')}


def load(path):
  return loader.open_checkpoint(path).params(names.in_memory(np.float32))


def error_of(path):
  """Returns the error of loading a model, None if there is no error."""
  try:
    load(path)
  except Exception as error:
    return error
  return None


def test_originals_are_loaded(originals):
  for path in originals.values():
    assert load(path)['embedding'].shape == (24, 8)


def cases(kind):
  """Yields the cases of a kind of model, in groups of similar size."""
  rng = random.Random(0)
  if kind == 'directory':
    shards = [f'model-0000{i}-of-00002.safetensors' for i in (1, 2)]
    files = ('config.json', 'generation_config.json', *shards)
    yield 'json', rng.sample(list(malformed.json_cases()), 120)
    yield (
      'kinds',
      list(malformed.kind_cases((*files, 'model.safetensors.index.json'))),
    )
    yield 'headers', list(malformed.header_cases(rng, 60))
  else:
    yield 'fields', rng.sample(list(malformed.field_cases()), 80)
  yield 'bytes', list(malformed.byte_cases(rng, 120))


@pytest.mark.parametrize(
  'kind, group',
  [
    (kind, group)
    for kind in ('directory', 'tiny.gguf')
    for group, _ in cases(kind)
  ],
)
def test_malformed_models_are_loaded_or_refused(
  originals, tmp_path, kind, group
):
  refused = 0
  for i, (case, damage) in enumerate(dict(cases(kind))[group]):
    path = tmp_path / str(i) / kind
    path.parent.mkdir()
    damage(malformed.copy_of(originals[kind], path))
    error = error_of(path)
    assert error is None or isinstance(error, ValueError | OSError), case
    assert error is None or str(path) in str(error), case
    refused += error is not None
  assert refused > 20


def test_other_kinds_of_files_are_refused(originals, tmp_path):
  for i, (case, damage) in enumerate(malformed.kind_cases(('tiny.gguf',))):
    path = tmp_path / str(i) / 'tiny.gguf'
    path.parent.mkdir()
    malformed.copy_of(originals['tiny.gguf'], path)
    damage(path.parent)
    error = error_of(path)
    assert isinstance(error, ValueError | OSError), case
    assert str(path) in str(error), case


def test_links_to_files_are_followed(originals, tmp_path):
  """The hub's cache consists of links."""
  for file in originals['directory'].iterdir():
    (tmp_path / file.name).symlink_to(file)
  expected, linked = load(originals['directory']), load(tmp_path)
  np.testing.assert_array_equal(linked['embedding'], expected['embedding'])
