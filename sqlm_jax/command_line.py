"""Flags of the command line."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any
from unittest import mock

from absl import flags, logging
from ml_collections import config_flags

from sqlm_jax import configs
from sqlm_jax.config import overrides
from sqlm_jax.pretrained import hf_export
from sqlm_jax.reporting import messages
from sqlm_jax.run import evaluation_sets, saved_models
from sqlm_jax.workdir import storage

CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  'Config file, or the name of a config of the package, such as quickstart. '
  'Default: the config of the run in --workdir, except for a new run.',
  lock_config=True,
)
WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Directory that the run writes to and is resumed from.'
)
MODE = flags.DEFINE_enum(
  'mode',
  'train',
  ('train', 'pilot', 'eval', 'sample', 'export', 'review', 'why', 'report'),
  'train or resume a run, try a config in minutes to see whether training is '
  'worthwhile, evaluate a checkpoint, answer typed questions, '
  'export a checkpoint for other tools, look into a run and decide about its '
  'votes, say why a step or a question was trained on, or write a report.',
)
ROLE = flags.DEFINE_enum(
  'role',
  'solver',
  ('solver', 'proposer'),
  'Role to sample from with --mode=sample, or to export with --mode=export.',
)
QUESTIONS_FILE = flags.DEFINE_string(
  'questions_file',
  None,
  'With --mode=sample --role=proposer: new .jsonl file for the readable '
  'questions of num_steps steps. task.questions can read such a file.',
)
CHECKPOINT = flags.DEFINE_string(
  'checkpoint',
  saved_models.LATEST,
  'Checkpoint to evaluate, sample from or export: latest, best (by its '
  'validation score), or a number of steps. 0 is the model before training.',
)
DATASET = flags.DEFINE_string(
  'dataset',
  evaluation_sets.TEST,
  'Questions for --mode=eval: test or validation (of the config), the name of '
  'a dataset, or a file.',
)
COMPARE = flags.DEFINE_list(
  'compare',
  [],
  'With --mode=eval: two checkpoints A,B to evaluate on the same questions and '
  'compare. Checkpoints of other runs are written as WORKDIR@CHECKPOINT.',
)
EXPORT_DIR = flags.DEFINE_string(
  'export_dir', None, 'New directory that --mode=export writes to.'
)
EXPORT_DTYPE = flags.DEFINE_enum(
  'export_dtype',
  None,
  hf_export.DTYPES,
  'Dtype of exported tensors. Default: float32 for a run with adapters; '
  'otherwise bfloat16 if the run computes or stores weights in it.',
)
EXPORT_ADAPTER = flags.DEFINE_bool(
  'export_adapter',
  False,
  'Export only the LoRA adapters, for PEFT, instead of the whole model.',
)
PORT = flags.DEFINE_integer(
  'port',
  0,
  'Port on 127.0.0.1 of --mode=review; 0 chooses a free port.',
  lower_bound=0,
  upper_bound=65535,
)
REVIEWER = flags.DEFINE_string(
  'reviewer', '', 'Your name, which --mode=review stores with your verdicts.'
)
ALLOWED_HOSTS = flags.DEFINE_list(
  'allowed_hosts',
  [],
  'Names of this host, in addition to localhost, by which a proxy reaches '
  '--mode=review.',
)
EXPORT_QUEUE = flags.DEFINE_string(
  'export_queue',
  None,
  'With --mode=review: new .csv file for the votes that wait for a verdict.',
)
IMPORT_QUEUE = flags.DEFINE_string(
  'import_queue',
  None,
  'With --mode=review: .csv file of --export_queue with verdicts filled in.',
)
IMPORT_LABELS = flags.DEFINE_string(
  'import_labels',
  None,
  'With --mode=review: .csv or .jsonl file of questions with known answers, '
  'which replace votes in training.',
)
EXPORT_VOTES = flags.DEFINE_string(
  'export_votes',
  None,
  'With --mode=review: new .jsonl file for all questions with their votes.',
)
STEP = flags.DEFINE_integer(
  'step',
  None,
  'With --mode=why: the self-play step whose update is explained.',
  lower_bound=0,
)
QUESTION = flags.DEFINE_string(
  'question', None, 'With --mode=why: the question whose history is shown.'
)
WORKDIRS = flags.DEFINE_list(
  'workdirs',
  [],
  'With --mode=report: directories of runs to compare, in addition to '
  '--workdir.',
)
REPORT_DIR = flags.DEFINE_string(
  'report_dir',
  None,
  'Directory that --mode=report writes to. Default: the workdir of the run.',
)
PRICE_PER_HOUR = flags.DEFINE_float(
  'price_per_hour',
  None,
  'With --mode=report: price of a device for an hour, in any currency.',
  lower_bound=0.0,
)
LANGUAGE = flags.DEFINE_enum(
  'language',
  messages.ENGLISH,
  messages.LANGUAGES,
  'Language of --mode=report and of the pages of --mode=review.',
)

DISTRIBUTED = flags.DEFINE_enum(
  'distributed',
  'off',
  ('off', 'auto'),
  'auto: this is one of several processes that Cloud TPU, SLURM or Open MPI '
  'has started.',
)
COORDINATOR_ADDRESS = flags.DEFINE_string(
  'coordinator_address',
  None,
  'HOST:PORT of the first of several processes, if --distributed=auto cannot '
  'find it.',
)
NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'With --coordinator_address: number of processes.'
)
PROCESS_ID = flags.DEFINE_integer(
  'process_id',
  None,
  'With --coordinator_address: index of this process, counted from 0.',
)

COMPILATION_CACHE = flags.DEFINE_string(
  'compilation_cache',
  None,
  "Directory of compiled programs, or 'off'. Default: "
  "$JAX_COMPILATION_CACHE_DIR, or a directory in the user's cache.",
)

STOPPED_EXIT_CODE = flags.DEFINE_integer(
  'stopped_exit_code',
  0,
  'Exit code if Ctrl-C or SIGTERM stops the training before its end. '
  'Schedulers that restart only failed jobs need a code other than 0.',
  lower_bound=0,
  upper_bound=255,
)


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
  argv = overrides.replace_config(argv, configs.find)
  try:
    overrides.check(argv, _load_config, names=configs.names())
    # ml_collections reads overrides from sys.argv, not from its argument.
    with mock.patch.object(sys, 'argv', argv):
      rest = flags.FLAGS(argv)
  except (flags.Error, ValueError, OSError) as error:
    sys.exit(f'sqlm_jax: {overrides.tell(error)}')
  if flags.FLAGS['verbosity'].using_default_value:
    # The default of absl, INFO, would show many messages of libraries.
    flags.FLAGS.verbosity = logging.WARNING
  return rest


def check_paths() -> None:
  """Expands ~ in paths, and raises for paths that cannot be written."""
  for flag in (
    WORKDIR,
    EXPORT_DIR,
    QUESTIONS_FILE,
    EXPORT_QUEUE,
    IMPORT_QUEUE,
    IMPORT_LABELS,
    EXPORT_VOTES,
    REPORT_DIR,
  ):
    if flag.value:
      flags.FLAGS[flag.name].value = storage.expand(flag.value)
      storage.check(flag.value, f'--{flag.name}')
  flags.FLAGS[WORKDIRS.name].value = list(map(storage.expand, WORKDIRS.value))
  for workdir in WORKDIRS.value:
    storage.check(workdir, '--workdirs')
  if EXPORT_DIR.value and storage.is_remote(EXPORT_DIR.value):
    raise ValueError(
      f'--export_dir={EXPORT_DIR.value}: expected a local directory'
    )
