"""Command-line interface: parses flags and runs one mode.

sqlm-jax --config=quickstart --workdir=runs/quickstart
python -m sqlm_jax.main --config=configs/quickstart.py --workdir=runs/quickstart
"""

import gc
import importlib.util
import sys
from collections.abc import Iterator, Sequence

import jax
from absl import app, flags, logging
from etils import epath, epy

from sqlm_jax import command_line, display
from sqlm_jax.config import schema as config_lib
from sqlm_jax.distributed import processes
from sqlm_jax.evaluation import report
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.modes import compare, evaluate, export, pilot, sample, train
from sqlm_jax.reporting import modes
from sqlm_jax.run import build, compilation_cache, divergence, saved_models
from sqlm_jax.workdir import config_json

# An optional part of the package, which other modes do not need.
with epy.lazy_imports():
  from sqlm_jax.review import commands

flags.adopt_module_key_flags(command_line)  # shows them in --help

# Maximum columns of a model's response, which is shown on one line.
_LINE = 1000


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'{argv[1:]}: expected flags only')
  # Makes accidental broadcasting between ranks an error.
  jax.config.update('jax_numpy_rank_promotion', 'raise')
  # Tracing creates many long-lived objects, and scanning them took a second.
  gc.set_threshold(10_000)
  compilation_cache.keep_compiled(command_line.COMPILATION_CACHE.value)
  with processes.exit_on_error():
    is_done = _run()
  if not is_done:  # every process has stopped at the same step
    sys.exit(command_line.STOPPED_EXIT_CODE.value)


def _run() -> bool:
  """Runs the mode; returns False if a signal stopped the training."""
  try:
    command_line.check_paths()
    _start_processes()
    if command_line.MODE.value in _READING:
      _READING[command_line.MODE.value]()
      return True
    config = _read_config()
    if command_line.MODE.value == 'pilot':
      pilot.pilot(config, command_line.WORKDIR.value)
      return True
    if command_line.MODE.value != 'train':
      _use_model(config)
      return True
    if not command_line.WORKDIR.value:
      raise ValueError('--workdir: expected a directory for the run')
    return train.train(config, command_line.WORKDIR.value)
  except divergence.DivergedError as error:
    sys.stderr.write(f'sqlm_jax: {error}\n')
    sys.exit(3)  # tells a launcher that a restart would not help
  except jax.errors.JaxRuntimeError:
    raise  # keeps the traceback, which matters for errors such as out of memory
  except (ValueError, OSError, RuntimeError) as error:
    # Errors that a user can fix are reported without a traceback.
    logging.debug('%s', error, exc_info=True)
    sys.exit(f'sqlm_jax: {error}\n(--verbosity=1 shows a traceback)')


def _start_processes() -> None:
  """Connects to the other processes of the run, if there are any."""
  given = (
    command_line.COORDINATOR_ADDRESS.value,
    command_line.NUM_PROCESSES.value,
    command_line.PROCESS_ID.value,
  )
  if command_line.DISTRIBUTED.value == 'off' and given == (None,) * 3:
    return
  if command_line.DISTRIBUTED.value == 'off' and None in given:
    raise ValueError(
      '--coordinator_address, --num_processes, --process_id: expected all '
      'three of them, or --distributed=auto'
    )
  if command_line.MODE.value not in ('train', 'eval'):
    raise ValueError(
      f'--mode={command_line.MODE.value}: expected a single process'
    )
  processes.start(*given)
  if not processes.is_first():
    display.mute()


def _read_config() -> config_lib.Config:
  """Returns the config of `--config`, or of the run in the workdir."""
  if command_line.CONFIG.value is not None:
    config = config_lib.from_dict(command_line.CONFIG.value.to_dict())
    if command_line.MODE.value == 'eval' and command_line.WORKDIR.value:
      # The model must be the run's; the evaluation settings may differ.
      config_json.check(
        command_line.WORKDIR.value,
        config_lib.to_dict(config),
        may_change=config_lib.MAY_CHANGE_TO_EVALUATE,
        complete=config_lib.complete,
      )
    return config
  flag, workdir = '--workdir', command_line.WORKDIR.value
  if not workdir and command_line.COMPARE.value:
    flag = '--compare'
    workdir, _ = compare.parse(
      compare.pair(command_line.COMPARE.value)[0], None
    )
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
  parts = build.build(config, command_line.WORKDIR.value)
  if command_line.MODE.value == 'eval':
    if command_line.COMPARE.value:
      _compare(parts)
    else:
      _evaluate(parts)
    return
  if command_line.MODE.value == 'export':
    _check_export(parts)
  if command_line.QUESTIONS_FILE.value:
    _check_questions_file(
      command_line.QUESTIONS_FILE.value, command_line.ROLE.value
    )
  model = saved_models.find(
    parts, command_line.WORKDIR.value, command_line.CHECKPOINT.value
  )
  _note(f'{command_line.ROLE.value} {model.about}')
  params = model.load(command_line.ROLE.value)
  if command_line.MODE.value == 'export':
    _export(parts, params, model.step)
  elif command_line.QUESTIONS_FILE.value:
    count = sample.write_questions(
      parts, params, command_line.QUESTIONS_FILE.value
    )
    _note(f'wrote {count} questions to {command_line.QUESTIONS_FILE.value}')
  elif command_line.ROLE.value == 'proposer':
    _show_questions(parts, params, model.step)
  else:
    _show_answers(parts, params)


def _review() -> None:
  """Reads or writes files of verdicts, or serves the review pages."""
  if not command_line.WORKDIR.value:
    raise ValueError('--workdir: expected the directory of a run')
  for package in ('python_multipart', 'starlette', 'uvicorn'):
    if importlib.util.find_spec(package) is None:
      raise ValueError(
        f"--mode=review: {package} is not installed: pip install -e '.[review]'"
      )
  commands.review(
    command_line.WORKDIR.value,
    files=commands.Files(
      export_queue=command_line.EXPORT_QUEUE.value,
      import_queue=command_line.IMPORT_QUEUE.value,
      import_labels=command_line.IMPORT_LABELS.value,
      export_votes=command_line.EXPORT_VOTES.value,
    ),
    reviewer=command_line.REVIEWER.value,
    port=command_line.PORT.value,
    hosts=command_line.ALLOWED_HOSTS.value,
    language=command_line.LANGUAGE.value,
  )


def _explain() -> None:
  """Shows what made an update, or the history of a question."""
  if not command_line.WORKDIR.value:
    raise ValueError('--workdir: expected the directory of a run')
  modes.explain(
    command_line.WORKDIR.value,
    step=command_line.STEP.value,
    question=command_line.QUESTION.value,
  )


def _report() -> None:
  """Writes the report of one or several runs."""
  workdirs = [command_line.WORKDIR.value, *command_line.WORKDIRS.value]
  modes.report(
    [workdir for workdir in workdirs if workdir],
    directory=command_line.REPORT_DIR.value,
    language=command_line.LANGUAGE.value,
    price_per_hour=command_line.PRICE_PER_HOUR.value,
  )


# Modes that need only the files of a run, and no model.
_READING = {'review': _review, 'why': _explain, 'report': _report}


def _evaluate(parts: build.Parts) -> None:
  evaluation_set = evaluate.find_set(parts, command_line.DATASET.value)
  model = saved_models.find(
    parts, command_line.WORKDIR.value, command_line.CHECKPOINT.value
  )
  is_new = (
    command_line.WORKDIR.value
    and config_json.read(command_line.WORKDIR.value) is None
  )
  if is_new and processes.is_first():
    # `--compare` finds an evaluated model by the config.json of its workdir.
    config_json.write(
      command_line.WORKDIR.value, config_lib.to_dict(parts.config)
    )
  _note(f'solver {model.about}')
  result = evaluate.evaluate(
    parts, model, evaluation_set, workdir=command_line.WORKDIR.value
  ).result
  display.summary('Evaluation', report.rows(result))
  if 'reliability' in result:
    curve = result['reliability']
    display.message('\nHow often votes are right, by agreement:')
    display.message(report.votes(curve))
    display.message(report.describe_votes(curve))


def _compare(parts: build.Parts) -> None:
  compared, directory = compare.compare(
    parts,
    command_line.COMPARE.value,
    dataset=command_line.DATASET.value,
    workdir=command_line.WORKDIR.value,
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
  if command_line.MODE.value != 'sample' or role != 'proposer':
    raise ValueError(
      f'--questions_file={path}: expected --mode=sample --role=proposer'
    )
  sample.check_questions_file(path)


def _check_export(parts: build.Parts) -> None:
  """Checks the flags of an export before anything is loaded."""
  if not command_line.EXPORT_DIR.value:
    raise ValueError('--export_dir: expected a directory to write to')
  workdir = command_line.WORKDIR.value
  is_run = workdir and (epath.Path(workdir) / 'checkpoints').exists()
  if workdir and not is_run and command_line.CHECKPOINT.value != '0':
    # Otherwise a misspelled workdir would export the untrained model.
    raise ValueError(f'--workdir={workdir}: expected a run with checkpoints')
  export.check_target(
    parts,
    command_line.EXPORT_DIR.value,
    as_adapter=command_line.EXPORT_ADAPTER.value,
  )


def _export(parts: build.Parts, params: policy_lib.Params, step: int) -> None:
  assert (
    command_line.EXPORT_DIR.value is not None
  )  # `_check_export` has raised otherwise
  directory = export.export_policy(
    parts,
    params,
    command_line.EXPORT_DIR.value,
    step=step,
    role=command_line.ROLE.value,
    dtype=command_line.EXPORT_DTYPE.value or export.default_dtype(parts.config),
    as_adapter=command_line.EXPORT_ADAPTER.value,
    workdir=command_line.WORKDIR.value,
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


def run() -> None:
  """Runs the command line, as the command `sqlm-jax` does."""
  # --help shows the key flags of the program, which absl knows by its path.
  for flag in flags.FLAGS.get_key_flags_for_module(__name__):
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
  app.run(main, flags_parser=command_line.parse_flags)


if __name__ == '__main__':
  run()
