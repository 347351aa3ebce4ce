"""Command-line interface: parses flags and runs one mode.

python -m sqlm_jax.main --config=configs/quickstart.py --workdir=runs/quick
"""

import gc
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import jax
from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags

from sqlm_jax import compare, display, evaluate, export, sample, train
from sqlm_jax.config import overrides
from sqlm_jax.config import schema as config_lib
from sqlm_jax.distributed import processes
from sqlm_jax.evaluation import report
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.pretrained import catalog, hf_export
from sqlm_jax.run import build, divergence, evaluation_sets, saved_models
from sqlm_jax.workdir import config_json, storage

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  'Config file, from configs/ or your own. Default: the config of the run in '
  '--workdir, except for a new run.',
  lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Directory that the run writes to and is resumed from.'
)
_MODE = flags.DEFINE_enum(
  'mode',
  'train',
  ('train', 'eval', 'sample', 'export'),
  'train or resume a run, evaluate a checkpoint, answer typed questions, or '
  'export a checkpoint for other tools.',
)
_ROLE = flags.DEFINE_enum(
  'role',
  'solver',
  ('solver', 'proposer'),
  'Role to sample from with --mode=sample, or to export with --mode=export.',
)
_QUESTIONS_FILE = flags.DEFINE_string(
  'questions_file',
  None,
  'With --mode=sample --role=proposer: new .jsonl file for the readable '
  'questions of num_steps steps. task.questions can read such a file.',
)
_CHECKPOINT = flags.DEFINE_string(
  'checkpoint',
  saved_models.LATEST,
  'Checkpoint to evaluate, sample from or export: latest, best (by its '
  'validation score), or a number of steps. 0 is the model before training.',
)
_DATASET = flags.DEFINE_string(
  'dataset',
  evaluation_sets.TEST,
  'Questions for --mode=eval: test or validation (of the config), the name of '
  'a dataset, or a file.',
)
_COMPARE = flags.DEFINE_list(
  'compare',
  [],
  'With --mode=eval: two checkpoints A,B to evaluate on the same questions and '
  'compare. Checkpoints of other runs are written as WORKDIR@CHECKPOINT.',
)
_EXPORT_DIR = flags.DEFINE_string(
  'export_dir', None, 'New directory that --mode=export writes to.'
)
_EXPORT_DTYPE = flags.DEFINE_enum(
  'export_dtype',
  None,
  hf_export.DTYPES,
  'Dtype of exported tensors. Default: float32 for a run with adapters; '
  'otherwise bfloat16 if the run computes or stores weights in it.',
)
_EXPORT_ADAPTER = flags.DEFINE_bool(
  'export_adapter',
  False,
  'Export only the LoRA adapters, for PEFT, instead of the whole model.',
)

_DISTRIBUTED = flags.DEFINE_enum(
  'distributed',
  'off',
  ('off', 'auto'),
  'auto: this is one of several processes that Cloud TPU, SLURM or Open MPI '
  'has started.',
)
_COORDINATOR_ADDRESS = flags.DEFINE_string(
  'coordinator_address',
  None,
  'HOST:PORT of the first of several processes, if --distributed=auto cannot '
  'find it.',
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'With --coordinator_address: number of processes.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id',
  None,
  'With --coordinator_address: index of this process, counted from 0.',
)

_COMPILATION_CACHE = flags.DEFINE_string(
  'compilation_cache',
  None,
  "Directory of compiled programs, or 'off'. Default: "
  "$JAX_COMPILATION_CACHE_DIR, or a directory in the user's cache.",
)

_STOPPED_EXIT_CODE = flags.DEFINE_integer(
  'stopped_exit_code',
  0,
  'Exit code if Ctrl-C or SIGTERM stops the training before its end. '
  'Schedulers that restart only failed jobs need a code other than 0.',
  lower_bound=0,
  upper_bound=255,
)

# Maximum columns of a model's response, which is shown on one line.
_LINE = 1000


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'{argv[1:]}: expected flags only')
  # Makes accidental broadcasting between ranks an error.
  jax.config.update('jax_numpy_rank_promotion', 'raise')
  # Tracing creates many long-lived objects, and scanning them took a second.
  gc.set_threshold(10_000)
  _keep_compiled()
  with processes.exit_on_error():
    is_done = _run()
  if not is_done:  # every process has stopped at the same step
    sys.exit(_STOPPED_EXIT_CODE.value)


def _run() -> bool:
  """Runs the mode; returns False if a signal stopped the training."""
  try:
    _check_paths()
    _start_processes()
    config = _read_config()
    if _MODE.value != 'train':
      _use_model(config)
      return True
    if not _WORKDIR.value:
      raise ValueError('--workdir: expected a directory for the run')
    return train.train(config, _WORKDIR.value)
  except divergence.DivergedError as error:
    sys.stderr.write(f'sqlm_jax: {error}\n')
    sys.exit(3)  # tells a launcher that a restart would not help
  except jax.errors.JaxRuntimeError:
    raise  # keeps the traceback, which matters for errors such as out of memory
  except (ValueError, OSError, RuntimeError) as error:
    # Errors that a user can fix are reported without a traceback.
    logging.debug('%s', error, exc_info=True)
    sys.exit(f'sqlm_jax: {error}\n(--verbosity=1 shows a traceback)')


def _check_paths() -> None:
  """Expands ~ in paths, and raises for paths that cannot be written."""
  for flag in (_WORKDIR, _EXPORT_DIR, _QUESTIONS_FILE):
    if flag.value:
      flags.FLAGS[flag.name].value = storage.expand(flag.value)
      storage.check(flag.value, f'--{flag.name}')
  if _EXPORT_DIR.value and storage.is_remote(_EXPORT_DIR.value):
    raise ValueError(
      f'--export_dir={_EXPORT_DIR.value}: expected a local directory'
    )


def _keep_compiled() -> None:
  """Sets up the cache of compiled programs for later starts."""
  directory = _COMPILATION_CACHE.value
  if directory is None:
    # ty cannot see the options that jax adds to its config.
    chosen = jax.config.jax_compilation_cache_dir  # ty: ignore
    directory = chosen or str(catalog.cache_directory() / 'compiled')
  elif directory == 'off':
    directory = None
  jax.config.update('jax_compilation_cache_dir', directory)
  # By default, jax does not cache programs that compile in under a second, and
  # a start compiles dozens of them.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)


def _start_processes() -> None:
  """Connects to the other processes of the run, if there are any."""
  given = (_COORDINATOR_ADDRESS.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
  if _DISTRIBUTED.value == 'off' and given == (None,) * 3:
    return
  if _DISTRIBUTED.value == 'off' and None in given:
    raise ValueError(
      '--coordinator_address, --num_processes, --process_id: expected all '
      'three of them, or --distributed=auto'
    )
  if _MODE.value not in ('train', 'eval'):
    raise ValueError(f'--mode={_MODE.value}: expected a single process')
  processes.start(*given)
  if not processes.is_first():
    display.mute()


def _read_config() -> config_lib.Config:
  """Returns the config of `--config`, or of the run in the workdir."""
  if _CONFIG.value is not None:
    config = config_lib.from_dict(_CONFIG.value.to_dict())
    if _MODE.value == 'eval' and _WORKDIR.value:
      # The model must be the run's; the evaluation settings may differ.
      config_json.check(
        _WORKDIR.value,
        config_lib.to_dict(config),
        may_change=config_lib.MAY_CHANGE_TO_EVALUATE,
        complete=config_lib.complete,
      )
    return config
  flag, workdir = '--workdir', _WORKDIR.value
  if not workdir and _COMPARE.value:
    flag = '--compare'
    workdir, _ = compare.parse(compare.pair(_COMPARE.value)[0], None)
  if not workdir:
    raise ValueError(
      '--config: expected a config file, or a --workdir with a run'
    )
  stored = config_json.read(workdir)
  if stored is None:
    raise ValueError(
      f'{flag}={workdir}: expected a directory with a run (config.json), or '
      '--config=FILE'
    )
  return config_lib.from_dict(stored)


def _use_model(config: config_lib.Config) -> None:
  """Evaluates, samples from or exports a checkpoint or the initial model."""
  parts = build.build(config, _WORKDIR.value)
  if _MODE.value == 'eval':
    if _COMPARE.value:
      _compare(parts)
    else:
      _evaluate(parts)
    return
  if _MODE.value == 'export':
    _check_export(parts)
  if _QUESTIONS_FILE.value:
    _check_questions_file(_QUESTIONS_FILE.value, _ROLE.value)
  model = saved_models.find(parts, _WORKDIR.value, _CHECKPOINT.value)
  _note(f'{_ROLE.value} {model.about}')
  params = model.load(_ROLE.value)
  if _MODE.value == 'export':
    _export(parts, params, model.step)
  elif _QUESTIONS_FILE.value:
    count = sample.write_questions(parts, params, _QUESTIONS_FILE.value)
    _note(f'wrote {count} questions to {_QUESTIONS_FILE.value}')
  elif _ROLE.value == 'proposer':
    _show_questions(parts, params, model.step)
  else:
    _show_answers(parts, params)


def _evaluate(parts: build.Parts) -> None:
  evaluation_set = evaluate.find_set(parts, _DATASET.value)
  model = saved_models.find(parts, _WORKDIR.value, _CHECKPOINT.value)
  is_new = _WORKDIR.value and config_json.read(_WORKDIR.value) is None
  if is_new and processes.is_first():
    # `--compare` finds an evaluated model by the config.json of its workdir.
    config_json.write(_WORKDIR.value, config_lib.to_dict(parts.config))
  _note(f'solver {model.about}')
  result = evaluate.evaluate(
    parts, model, evaluation_set, workdir=_WORKDIR.value
  ).result
  display.summary('Evaluation', report.rows(result))
  if 'reliability' in result:
    curve = result['reliability']
    display.message('\nHow often votes are right, by agreement:')
    display.message(report.votes(curve))
    display.message(report.describe_votes(curve))


def _compare(parts: build.Parts) -> None:
  compared, directory = compare.compare(
    parts, _COMPARE.value, dataset=_DATASET.value, workdir=_WORKDIR.value
  )
  display.message(report.to_markdown(compared))
  display.summary('Comparison', {'directory': str(directory)})


def _show_questions(
  parts: build.Parts, params: policy_lib.Params, step: int
) -> None:
  for _, text, reason in sample.questions(parts, params, step):
    text = display.clip(text, _LINE)
    display.message(text if not reason else f'{text}   ({reason})')


def _show_answers(parts: build.Parts, params: policy_lib.Params) -> None:
  for text, answer in sample.answers(parts, params, _typed_questions()):
    text = display.clip(text, _LINE)
    if text != answer:
      text += f'   (parsed: {answer or "nothing"})'
    display.message(text)


def _check_questions_file(path: str, role: str) -> None:
  if _MODE.value != 'sample' or role != 'proposer':
    raise ValueError(
      f'--questions_file={path}: expected --mode=sample --role=proposer'
    )
  sample.check_questions_file(path)


def _check_export(parts: build.Parts) -> None:
  """Checks the flags of an export before anything is loaded."""
  if not _EXPORT_DIR.value:
    raise ValueError('--export_dir: expected a directory to write to')
  workdir = _WORKDIR.value
  is_run = workdir and (epath.Path(workdir) / 'checkpoints').exists()
  if workdir and not is_run and _CHECKPOINT.value != '0':
    # Otherwise a misspelled workdir would export the untrained model.
    raise ValueError(f'--workdir={workdir}: expected a run with checkpoints')
  export.check_target(
    parts, _EXPORT_DIR.value, as_adapter=_EXPORT_ADAPTER.value
  )


def _export(parts: build.Parts, params: policy_lib.Params, step: int) -> None:
  assert _EXPORT_DIR.value is not None  # `_check_export` has raised otherwise
  directory = export.export_policy(
    parts,
    params,
    _EXPORT_DIR.value,
    step=step,
    role=_ROLE.value,
    dtype=_EXPORT_DTYPE.value or export.default_dtype(parts.config),
    as_adapter=_EXPORT_ADAPTER.value,
    workdir=_WORKDIR.value,
  )
  sizes = {
    path.name: f'{path.stat().st_size / 1e6:.1f} MB'
    for path in sorted(directory.iterdir())
  }
  display.summary(f'Exported to {directory}', sizes)


def _note(text: str) -> None:
  """Writes to standard error, so that standard output has only the answers."""
  if processes.is_first():
    sys.stderr.write(f'[{text}]\n')


def _typed_questions() -> Iterator[str]:
  """Yields lines of standard input, with a prompt on a terminal."""
  is_terminal = sys.stdin.isatty()
  while True:
    if is_terminal:
      sys.stderr.write('> ')
      sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
      return
    if line.strip():
      yield line


def _load_config(flag: str) -> Mapping[str, Any]:
  """Returns the config of `--config=FILE`, without overrides."""
  argv = [sys.argv[0], flag]
  holder = flags.FlagValues()
  base = config_flags.DEFINE_config_file('config', flag_values=holder)
  # ml_collections reads overrides from sys.argv, not from its argument.
  with mock.patch.object(sys, 'argv', argv):
    holder(argv)
  return base.value.to_dict()


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses flags; an error ends the program with a one-line message."""
  try:
    overrides.check(argv, _load_config)
    rest = flags.FLAGS(argv)
  except (flags.Error, ValueError, OSError) as error:
    sys.exit(f'sqlm_jax: {overrides.tell(error)}')
  if flags.FLAGS['verbosity'].using_default_value:
    # The default of absl, INFO, would show many messages of libraries.
    flags.FLAGS.verbosity = logging.WARNING
  return rest


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
