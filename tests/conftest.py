"""Fixtures and settings of all tests."""

import os
import tempfile

import hypothesis
import jax
import pytest

from sqlm_jax.pretrained import catalog

# Tests, and the processes that they start, share compiled programs in a cache.
# It is temporary, so that a test run never uses the programs of an earlier run.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  _COMPILED = tempfile.TemporaryDirectory()
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _COMPILED.name
  jax.config.update('jax_compilation_cache_dir', _COMPILED.name)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)

# Tests spend most of their time on compilation, which takes a third of the time
# without optimizations. `test_quickstart` compiles with them, as users do.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
jax.config.update(
  'jax_disable_most_optimizations',
  os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] == '1',
)
if jax.__version_info__ < (0, 11):  # XLA aborts if it does not know a flag
  os.environ.setdefault('XLA_FLAGS', '--xla_cpu_use_fusion_emitters=false')

# Must be set before jax initializes its devices.
jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')

# A test may be slow because the machine is busy, so slowness is not an error.
hypothesis.settings.register_profile(
  'patient',
  deadline=None,
  suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile('patient')


@pytest.fixture(scope='session')
def smollm2_path():
  """Returns the path of the quickstart's model, downloaded if not cached."""
  return catalog.resolve('smollm2-135m-instruct')


# Set on machines that have everything that the tests need. A skipped test then
# fails, because it was meant to run.
NO_SKIPS = bool(os.environ.get('SQLM_JAX_NO_SKIPS'))


def pytest_collection_modifyitems(items):
  for item in items:
    if 'smollm2_path' in getattr(item, 'fixturenames', ()):
      item.add_marker('real_model')


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
  return _refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
  return _refuse_skip((yield))


def _refuse_skip(report):
  if NO_SKIPS and report.skipped and not hasattr(report, 'wasxfail'):
    report.outcome = 'failed'
    report.longrepr = f'SQLM_JAX_NO_SKIPS is set, skipped: {report.longrepr}'
  return report
