"""Compares our greedy accuracy with that of EleutherAI's lm-eval.

  python -m benchmarks.lm_eval_agreement --workdir=runs/quickstart \\
      --output=runs/agreement

Evaluates the solver of a run, exports it, and lets lm-eval evaluate the
exported model on the same questions in float32. lm-eval may be in a separate
environment: `pip install 'lm-eval[hf]'`, and pass its command as --lm_eval.
Then the results are compared question by question. Prints a line of JSON, a
line of text, and the questions on which the results differ; exits with 1 if
there are any.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys

TEMPLATE = pathlib.Path(__file__).parent / 'lm_eval' / 'greedy.yaml'
TASK = 'sqlm_jax_greedy'


def our_answers(args: argparse.Namespace) -> tuple[list[dict], dict]:
  """Runs our evaluation; returns the rows and the settings."""
  where = pathlib.Path(args.workdir) / 'evaluations'
  _run_ours(args, '--mode=eval', f'--dataset={args.dataset}')
  # result.json is written last, so the newest one belongs to this evaluation.
  newest = max(where.glob('*/result.json'), key=lambda p: p.stat().st_mtime)
  lines = (newest.parent / 'answers.jsonl').read_bytes().splitlines()
  settings = json.loads((newest.parent / 'settings.json').read_bytes())
  return [json.loads(line) for line in lines], settings


def _run_ours(args: argparse.Namespace, *words: str) -> None:
  command = [sys.executable, '-m', 'sqlm_jax.main', *words]
  command += [f'--workdir={args.workdir}', f'--checkpoint={args.checkpoint}']
  subprocess.run(command, check=True, stdout=sys.stderr)


def write_task(
  directory: pathlib.Path, rows: list[dict], settings: dict
) -> None:
  """Writes the questions and lm-eval's task that asks them."""
  directory.mkdir(parents=True, exist_ok=True)
  questions = directory / 'questions.jsonl'
  keys = ('index', 'prompt', 'true')
  questions.write_text(
    ''.join(json.dumps({k: row[k] for k in keys}) + '\n' for row in rows),
    encoding='utf-8',
  )
  text = TEMPLATE.read_text()
  for name, value in (
    ('QUESTIONS', str(questions.absolute())),
    ('STOP', settings['solver_stop']),
    ('MAX_TOKENS', settings['max_tokens']),
  ):
    text = text.replace(f': {name}\n', f': {json.dumps(value)}\n')
  (directory / 'greedy.yaml').write_text(text)


def their_answers(
  args: argparse.Namespace, directory: pathlib.Path
) -> dict[int, dict]:
  """Runs lm-eval; returns its samples by the index of the question."""
  model = directory / 'model'
  _run_ours(
    args, '--mode=export', f'--export_dir={model}', '--export_dtype=float32'
  )
  results = directory / 'results'
  command = [args.lm_eval, '--model', 'hf', '--tasks', TASK]
  command += ['--model_args', f'pretrained={model},dtype=float32']
  command += ['--include_path', str(directory), '--device', args.device]
  command += ['--batch_size', '8', '--log_samples']
  command += ['--output_path', str(results)]
  offline = {'HF_HUB_OFFLINE': '1', 'HF_DATASETS_OFFLINE': '1'}
  subprocess.run(
    command, check=True, stdout=sys.stderr, env=os.environ | offline
  )
  newest = max(
    results.rglob(f'samples_{TASK}_*.jsonl'), key=lambda p: p.stat().st_mtime
  )
  samples = [json.loads(line) for line in newest.read_text().splitlines()]
  return {sample['doc']['index']: sample for sample in samples}


def compare(
  rows: list[dict], samples: dict[int, dict], stops: list[str]
) -> tuple[dict, list[str]]:
  """Counts the questions on which both agree and describes the others."""
  counts = dict.fromkeys(('same_text', 'same_grade', 'ours', 'theirs'), 0)
  differing = []
  for row in rows:
    sample = samples[row['index']]
    theirs = sample['resps'][0][0]
    ours = row['responses'][0]
    for stop in stops:  # lm-eval removes stop strings
      ours = ours.split(stop)[0]
    right = sample['exact_match'] == 1.0
    counts['same_text'] += ours == theirs
    counts['same_grade'] += row['right'][0] == right
    counts['ours'] += row['right'][0]
    counts['theirs'] += right
    if ours != theirs or row['right'][0] != right:
      differing.append(
        f'{row["question"]!r}: ours {ours!r} ({row["right"][0]}), '
        f'theirs {theirs!r} ({right})'
      )
  count = len(rows)
  accuracies = {name: counts[name] / count for name in ('ours', 'theirs')}
  return counts | accuracies | {'questions': count}, differing


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--workdir', required=True)
  parser.add_argument('--output', default='runs/agreement', type=pathlib.Path)
  parser.add_argument('--checkpoint', default='latest')
  parser.add_argument('--dataset', default='test')
  parser.add_argument('--lm_eval', default='lm_eval')
  parser.add_argument('--device', default='cpu')
  args = parser.parse_args()
  if shutil.which(args.lm_eval) is None:
    sys.exit(f"--lm_eval={args.lm_eval}: not counts: pip install 'lm-eval[hf]'")
  if args.output.exists():
    # Otherwise, the results of an earlier model could be compared.
    sys.exit(f'--output={args.output}: expected a new directory')
  rows, settings = our_answers(args)
  write_task(args.output, rows, settings)
  samples = their_answers(args, args.output)
  counts, differing = compare(rows, samples, settings['solver_stop'])
  print(json.dumps(counts))
  print(
    f'{counts["questions"]} questions: greedy {counts["ours"]:.4f} here, '
    f'{counts["theirs"]:.4f} by lm-eval; {counts["same_text"]} same texts, '
    f'{counts["same_grade"]} same grades'
  )
  print('\n'.join(differing))
  sys.exit(bool(differing))


if __name__ == '__main__':
  main()
