"""Tests of the command line: invalid flags, and all modes except training."""

import importlib.util
import io
import json
import pathlib
import shutil
import subprocess
import sys

import pytest
from absl.testing import flagsaver

from configs import smoke
from sqlm_jax import command_line, main
from sqlm_jax.config import schema as config_lib
from sqlm_jax.modes import sample, train
from sqlm_jax.run import divergence
from sqlm_jax.tasks import question_files
from sqlm_jax.workdir import jsonl

ROOT = pathlib.Path(__file__).parent.parent
SMOKE = '--config=configs/smoke.py'


def run(*words, text=None):
  """Runs the program as a user does."""
  return subprocess.run(
    [sys.executable, '-m', 'sqlm_jax.main', *words],
    cwd=ROOT,
    capture_output=True,
    text=True,
    input=text,
    timeout=300,
  )


@pytest.fixture
def start(monkeypatch):
  """Returns a function that runs a command line in this process."""

  def call(*words):
    # ml_collections reads overrides from sys.argv, not from its argument.
    monkeypatch.setattr(sys, 'argv', ['main', *words])
    monkeypatch.chdir(ROOT)
    with flagsaver.flagsaver():
      main.main(command_line.parse_flags(sys.argv))

  return call


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """Returns the workdir of a run of 0 steps, evaluated and saved."""
  workdir = tmp_path_factory.mktemp('runs') / 'smoke'
  c = smoke.get_config()
  c.num_steps = 0
  c.mesh.data = 1
  c.evaluation.samples = 1
  c.proposer.max_tokens = 8
  c.solver.max_tokens = 8
  c.sampler.max_prompt_tokens = 64
  train.train(config_lib.from_dict(c.to_dict()), str(workdir))
  return workdir


@pytest.mark.parametrize(
  'words, message',
  [
    ((SMOKE,), '--workdir: expected a directory for the run'),
    ((), '--config: expected a config file, or a --workdir with a run'),
    (
      ('--workdir=/nowhere/at/all',),
      '--workdir=/nowhere/at/all: expected a directory with a run',
    ),
    (
      ('--mode=eval', '--compare=/no/where@0,/tmp/x@0'),
      '--compare=/no/where: expected a directory with a run (config.json)',
    ),
    (
      ('--config', 'configs/nosuch.py'),
      '--config=configs/nosuch.py: expected a config file, there is none',
    ),
    (
      ('--config', 'smoke', '--config.num_steps', 'many'),
      "num_steps='many': expected a whole number",
    ),
    (('--config=README.md',), '--config=README.md: expected a file *.py'),
    (
      ('--config', 'configs/smoke.py', '--config.num_steps', 'many'),
      "num_steps='many': expected a whole number",
    ),
    (
      ('--config=configs/controls.py:nosuch,random',),
      'controls.py:nosuch,random: expected CONFIG,CONTROL with CONFIG one of',
    ),
    (
      ('--config=configs/controls.py:quickstart,nosuch',),
      'quickstart,nosuch: expected CONFIG,CONTROL with CONTROL one of format',
    ),
    (
      (SMOKE, '--workdir=/tmp/x', '--config.model.path='),
      "model.path='': expected a packaged name",
    ),
    (
      (SMOKE, '--workdir=README.md'),
      'README.md: expected a directory, not a file',
    ),
    (
      ('--config=nosuch',),
      '--config=nosuch: expected a config file, there is none. Configs by name',
    ),
    (
      (SMOKE, '--config.solver.size=4'),
      "solver.size='4': unknown key, expected one of group_size, max_rounds",
    ),
    (
      (SMOKE, '--config.solvers.size=4'),
      "solvers.size='4': unknown key, expected one of advantage, alarms",
    ),
    (
      (SMOKE, '--config.num_steps.more=4'),
      "num_steps.more='4': unknown key",
    ),
    (
      (SMOKE, '--config.num_steps=many'),
      "num_steps='many': expected a whole number",
    ),
    (
      (SMOKE, '--config.num_steps=1.5'),
      "num_steps='1.5': expected a whole number",
    ),
    (
      (SMOKE, '--config.loss.kl_coef=low'),
      "loss.kl_coef='low': expected a number",
    ),
    (
      (SMOKE, '--config.policy.shared=maybe'),
      "policy.shared='maybe': expected true or false",
    ),
    (
      ('--config.num_steps=3',),
      '--config.num_steps=3: expected --config=FILE as well',
    ),
    ((SMOKE, '--mode=play'), 'flag --mode=play: value should be one of <train'),
    ((SMOKE, '--wrokdir=x'), "Unknown command line flag 'wrokdir'"),
    (
      (SMOKE, '--workdir=/tmp/x', '--config.solver.group_size=1'),
      'solver.group_size=1: expected at least 2',
    ),
    (
      (SMOKE, '--workdir=/tmp/x', '--config.model.lora.rank=-1'),
      'model.lora.rank=-1: expected a number from 0',
    ),
    (
      (SMOKE, '--workdir=/tmp/x', '--config.model.lora.alpha=0'),
      'model.lora.alpha=0.0: expected a number above 0',
    ),
    (
      (SMOKE, '--workdir=/tmp/x', '--config.model.param_dtype=int8'),
      "model.param_dtype='int8': expected one of float32, bfloat16",
    ),
    (
      (SMOKE, '--mode=export'),
      '--export_dir: expected a directory to write to',
    ),
    (
      (SMOKE, '--mode=export', '--export_dir=configs'),
      '--export_dir=configs: expected a directory that does not exist',
    ),
    (
      (SMOKE, '--mode=export', '--export_dir=/tmp/x/y', '--export_adapter'),
      '--export_adapter: expected a run with model.lora.rank above 0',
    ),
    (
      (SMOKE, '--mode=export', '--export_dir=/tmp/x/y', '--workdir=/nowhere'),
      '--workdir=/nowhere: expected a run with checkpoints',
    ),
    (
      (SMOKE, '--workdir=/tmp/x', '--num_processes=2'),
      '--process_id: expected all three of them, or --distributed=auto',
    ),
    (
      ('--mode=sample', '--workdir=/tmp/x', '--distributed=auto'),
      '--mode=sample: expected a single process',
    ),
    (
      (SMOKE, '--workdir=/tmp/x', '--config.loss.kl_coef=nan'),
      'loss.kl_coef=nan: expected a finite number',
    ),
    (
      (SMOKE, '--workdir=/tmp/x', '--config.random_model.num_kv_heads=3'),
      'random_model.num_heads=4: expected a multiple of num_kv_heads=3',
    ),
    (
      (SMOKE, '--workdir=foo://bucket/run'),
      "--workdir='foo://bucket/run': expected a directory, gs://bucket",
    ),
    (
      ('--mode=eval', '--workdir=file:///tmp/x'),
      'there is no file system for file://',
    ),
    (
      ('--mode=eval', '--compare=foo://a@0,foo://a@1'),
      "--compare='foo://a': expected a directory",
    ),
    (
      (SMOKE, '--mode=export', '--export_dir=foo://a'),
      "--export_dir='foo://a': expected a directory",
    ),
    (
      (SMOKE, '--workdir=/tmp/x', '--config.evaluation.samples=1000000000'),
      'evaluation.samples=1000000000: expected a number from 0 to 1048576',
    ),
    (
      (SMOKE, '--workdir=/tmp/x', '--config.evaluation.test=a/test'),
      "add --config.task.test='()'",
    ),
    (
      (SMOKE, '--workdir=/tmp/x', '--config.mesh.tensor=3'),
      'expected sizes for 8 devices',
    ),
    (
      (SMOKE, '--workdir=/tmp/x', '--config.sampler.max_prompt_tokens=9'),
      'sampler.max_prompt_tokens=9: too small for the proposer prompt',
    ),
  ],
)
def test_an_invalid_command_line_is_explained_in_one_paragraph(
  start, words, message
):
  with pytest.raises(SystemExit) as caught:
    start(*words)
  error = str(caught.value.code)
  assert error.startswith('sqlm_jax: ')
  assert message in error
  assert 'Traceback' not in error


def test_a_missing_model_creates_no_workdir(start, tmp_path):
  path = tmp_path / 'nosuch.gguf'
  with pytest.raises(SystemExit, match=r'nosuch\.gguf'):
    start(SMOKE, f'--workdir={tmp_path / "run"}', f'--config.model.path={path}')
  assert not (tmp_path / 'run').exists()


def test_a_diverged_run_has_a_separate_exit_code(start, monkeypatch, capsys):
  def diverge(*_):
    raise divergence.DivergedError('step 7: diverged')

  monkeypatch.setattr(train, 'train', diverge)
  with pytest.raises(SystemExit) as caught:
    start(SMOKE, '--workdir=/tmp/x')
  assert caught.value.code == 3
  assert capsys.readouterr().err == 'sqlm_jax: step 7: diverged\n'


def test_overrides_reach_the_config(start, monkeypatch, tmp_path):
  calls = []
  monkeypatch.setattr(train, 'train', lambda *args: calls.append(args) or True)
  start(
    SMOKE,
    f'--workdir={tmp_path}',
    '--config.num_steps=3',
    '--config.policy.shared=false',
    '--config.loss.kl_coef=0',
    '--config.task.name=other',
  )
  ((config, workdir),) = calls
  assert workdir == str(tmp_path)
  assert config.num_steps == 3
  assert not config.policy.shared
  assert config.loss.kl_coef == 0.0
  assert config.task.name == 'other'


@pytest.mark.parametrize('flags, code', [((), 0), (('75',), 75)])
def test_a_stopped_training_exits_with_the_given_code(
  start, monkeypatch, tmp_path, flags, code
):
  monkeypatch.setattr(train, 'train', lambda *_: False)
  flags = [f'--stopped_exit_code={x}' for x in flags]
  with pytest.raises(SystemExit) as stopped:
    start(SMOKE, f'--workdir={tmp_path}', *flags)
  assert stopped.value.code == code


def test_an_invalid_flag_ends_the_program_without_a_traceback():
  process = run(SMOKE, '--config.solver.size=4')
  assert process.returncode == 1
  assert process.stderr.startswith("sqlm_jax: solver.size='4': unknown key")
  assert 'Traceback' not in process.stderr


def test_piped_questions_are_answered_line_by_line(workdir):
  process = run(
    '--mode=sample', f'--workdir={workdir}', text='1 + 1\n\n' + 'x' * 99 + '\n'
  )
  assert process.returncode == 0, process.stderr
  assert 'solver after 0 steps' in process.stderr
  # The empty line is ignored; standard output has only the answers.
  _, too_long = process.stdout.splitlines()
  assert too_long.startswith('(longer than sampler.max_prompt_tokens=64)')


def test_questions_of_the_proposer_are_shown(start, workdir, capsys):
  start('--mode=sample', '--role=proposer', f'--workdir={workdir}')
  out, err = capsys.readouterr()
  assert 'proposer after 0 steps' in err
  assert len(out.splitlines()) == 8  # proposer.num_questions


def test_questions_are_written_to_a_file_and_trained_on(
  start, workdir, tmp_path, capsys
):
  path = tmp_path / 'questions.jsonl'
  ask = ('--mode=sample', '--role=proposer', f'--questions_file={path}')
  start(SMOKE, *ask, '--config.num_steps=1')
  questions = question_files.read_questions(path)
  assert (
    f'wrote {len(questions)} questions to {path}' in capsys.readouterr().err
  )
  # The file has the responses, so the questions are parsed as in a run.
  start(
    SMOKE,
    f'--workdir={tmp_path}',
    f'--config.task.questions={path}',
    '--config.num_steps=1',
    '--config.evaluation.every=0',
  )
  (row,) = jsonl.read(tmp_path / 'metrics.jsonl')
  assert row['proposer/valid_rate'] == 1
  with pytest.raises(SystemExit, match=r'expected a new \.jsonl'):
    start(*ask, f'--workdir={workdir}')
  with pytest.raises(SystemExit, match='expected --mode=sample --role=prop'):
    start('--mode=sample', f'--questions_file={path}', f'--workdir={workdir}')


def test_questions_are_written_without_escaping_letters(
  start, tmp_path, monkeypatch
):
  proposals = [sample.Proposal('炉の温度は？', '炉の温度は？', '')]
  monkeypatch.setattr(sample, 'questions', lambda *_: proposals)
  path = tmp_path / 'questions.jsonl'
  ask = ('--mode=sample', '--role=proposer', f'--questions_file={path}')
  start(SMOKE, *ask, '--config.num_steps=1')
  assert path.read_bytes().decode() == '{"question": "炉の温度は？"}\n'
  assert question_files.read_questions(path) == ('炉の温度は？',)


def test_sampling_is_deterministic(start, workdir, capsys, monkeypatch):
  outputs = []
  for question in ('2 + 2\n', '2 + 2'):  # the last line may lack a line break
    monkeypatch.setattr(sys, 'stdin', io.StringIO(question))
    start('--mode=sample', f'--workdir={workdir}')
    outputs.append(capsys.readouterr().out)
  assert outputs[0] == outputs[1]
  assert len(outputs[0].splitlines()) == 1


def test_a_completed_evaluation_is_shown_and_not_repeated(
  start, workdir, capsys
):
  lines = (workdir / 'eval.jsonl').read_text()
  start('--mode=eval', f'--workdir={workdir}')
  assert (workdir / 'eval.jsonl').read_text() == lines
  out, err = capsys.readouterr()
  assert 'solver after 0 steps' in err
  assert 'greedy' in out
  assert '3 of task.test' in out
  # The run was killed after the last answer, before the result was written.
  (workdir / 'eval.jsonl').write_text('')
  start('--mode=eval', f'--workdir={workdir}')
  (result,) = jsonl.read(workdir / 'eval.jsonl')
  assert (result['set'], result['step'], result['questions']) == ('test', 0, 3)
  (workdir / 'eval.jsonl').write_text(lines)


def test_an_evaluation_on_other_questions_adds_a_line(
  start, workdir, tmp_path, capsys
):
  path = tmp_path / 'mine.jsonl'
  path.write_text('{"question": "1 + 3", "answer": "4"}\n')
  start('--mode=eval', f'--workdir={workdir}', f'--dataset={path}')
  result = jsonl.read(workdir / 'eval.jsonl')[-1]
  assert (result['set'], result['questions']) == (str(path), 1)
  assert f'1 of {path}' in capsys.readouterr().out
  changed = '--config.evaluation.samples=3'
  start(
    *(SMOKE, changed, '--config.mesh.data=1', '--config.num_steps=0'),
    *('--mode=eval', f'--workdir={workdir}', f'--dataset={path}'),
    *('--config.proposer.max_tokens=8', '--config.solver.max_tokens=8'),
    '--config.sampler.max_prompt_tokens=64',
  )
  result = jsonl.read(workdir / 'eval.jsonl')[-1]
  assert 'mean@3' in result
  assert '| agreement | votes | right |' in capsys.readouterr().out
  with pytest.raises(SystemExit, match=r'keys differ(?s:.)*proposer\.max_tok'):
    start(SMOKE, '--mode=eval', f'--workdir={workdir}')


def test_two_checkpoints_are_compared(start, workdir, tmp_path, capsys):
  other = tmp_path / 'other'
  shutil.copytree(workdir, other)
  start('--mode=eval', f'--workdir={workdir}', f'--compare=0,{other}@latest')
  assert '3 questions of `task.test`' in capsys.readouterr().out
  (directory,) = (workdir / 'comparisons').iterdir()
  compared = json.loads((directory / 'comparison.json').read_text())
  assert compared['figures']['greedy']['difference']['p'] == 1
  # If both names contain a workdir, neither --workdir nor --config is needed.
  start('--mode=eval', f'--compare={workdir}@0,{other}@0')
  assert len(list((workdir / 'comparisons').iterdir())) == 2


@pytest.mark.parametrize(
  'words, message',
  [
    (('--compare=0',), 'expected two checkpoints A,B'),
    (
      ('--compare=0,7',),
      r"checkpoint='7': expected a checkpoint in .* which has 0",
    ),
    (('--compare=0,last',), "checkpoint='last': expected latest, best or a"),
    (('--checkpoint=best',), 'chosen on a validation set'),
    (('--dataset=sums/test',), "'sums/test': expected a file"),
    (('--dataset=none.jsonl',), r'none\.jsonl: no such file'),
    (('--compare=0,/nowhere@0',), '/nowhere: expected a run'),
  ],
)
def test_an_impossible_evaluation_is_explained(start, workdir, words, message):
  with pytest.raises(SystemExit, match=message):
    start('--mode=eval', f'--workdir={workdir}', *words)


def test_an_impossible_evaluation_creates_no_workdir(start, tmp_path):
  with pytest.raises(SystemExit, match="checkpoint='7': expected a checkpoint"):
    start(SMOKE, '--mode=eval', f'--workdir={tmp_path}/new', '--checkpoint=7')
  assert not (tmp_path / 'new').exists()


def test_comparing_without_a_workdir_is_rejected(start):
  with pytest.raises(SystemExit, match='expected WORKDIR@CHECKPOINT'):
    start('--mode=eval', '--compare=0,1')


def test_an_export_lists_the_files_that_it_writes(
  start, workdir, tmp_path, capsys
):
  target = tmp_path / 'exported'
  start('--mode=export', f'--workdir={workdir}', f'--export_dir={target}')
  out, err = capsys.readouterr()
  assert 'solver after 0 steps' in err
  assert f'Exported to {target}' in out
  names = {path.name for path in target.iterdir()}
  assert names >= {
    'README.md',
    'config.json',
    'generation_config.json',
    'model.safetensors',
    'tokenizer.json',
  }
  assert all(name in out for name in names)
  # The directory is no longer empty.
  with pytest.raises(SystemExit, match='expected a directory that does not'):
    start('--mode=export', f'--workdir={workdir}', f'--export_dir={target}')


def test_every_mode_works_on_a_workdir_of_any_name(
  start, workdir, tmp_path, capsys, monkeypatch
):
  """Glob characters, commas, spaces, and ~ for the home directory."""
  monkeypatch.setenv('HOME', str(tmp_path))
  run, name = tmp_path / 'seeds=[0,1] \\ü', '~/seeds=[0,1] \\ü'
  shutil.copytree(workdir, run)
  at = f'--workdir={name}'
  start('--mode=eval', at, '--dataset=validation')
  assert 'suggested vote.min_agreement' not in capsys.readouterr().out  # k = 1
  start('--mode=eval', f'--compare={name}@0,{name}@latest')
  assert (run / 'comparisons').is_dir()
  start('--mode=export', at, f'--export_dir={name}/exported')
  assert (run / 'exported' / 'model.safetensors').exists()
  start(
    '--mode=sample', at, '--role=proposer', f'--questions_file={name}/q.jsonl'
  )
  assert (run / 'q.jsonl').exists()
  monkeypatch.setattr(sys, 'stdin', io.StringIO('1 + 1\n'))
  start('--mode=sample', at)
  # Training the same run again finds that it has finished.
  c = json.loads((run / 'config.json').read_text())
  assert train.train(config_lib.from_dict(c), str(run))


def test_sampling_without_a_run_uses_the_initial_model(start, capsys, tmp_path):
  start(
    SMOKE,
    '--mode=sample',
    '--role=proposer',
    f'--workdir={tmp_path / "new"}',
    '--config.proposer.max_tokens=8',
    '--config.mesh.data=1',
  )
  assert 'proposer before training' in capsys.readouterr().err
  assert not (tmp_path / 'new').exists()  # sampling creates no files


def test_votes_of_a_run_are_written_to_a_file(start, workdir, tmp_path, capsys):
  path = tmp_path / 'votes.jsonl'
  words = ('--mode=review', f'--workdir={workdir}')
  start(*words, f'--export_votes={path}')
  assert 'written to' in capsys.readouterr().out
  assert jsonl.read(path) == []  # a run of 0 steps


@pytest.mark.parametrize(
  'words, message',
  [
    ((), '--workdir: expected the directory of a run'),
    (('--workdir={tmp_path}',), 'expected a directory with a run'),
    (('--workdir=x', '--import_labels=gs:/x'), '--import_labels='),
  ],
)
def test_an_impossible_review_is_explained(start, words, message, tmp_path):
  words = [word.format(tmp_path=tmp_path) for word in words]
  with pytest.raises(SystemExit, match=message):
    start('--mode=review', *words)


def test_a_missing_part_of_the_package_is_named(start, monkeypatch, workdir):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(SystemExit, match=r'install -e .\.\[review\]'):
    start('--mode=review', f'--workdir={workdir}')
