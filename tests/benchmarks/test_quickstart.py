"""Tests of the table and the picture of the vote beside random rewards."""

import json
import sys
from xml.etree import ElementTree

from benchmarks import quickstart

AFTER = {('majority', 0): 0.9, ('majority', 1): 1.0}
AFTER |= {('random', 0): 0.2, ('random', 1): 0.5}


def write_run(workdir, reward, seed):
  """Writes the files of a finished run, which the benchmark does not repeat."""
  workdir.mkdir(parents=True)
  points = [(0, 'validation', 0.6), (0, 'test', 0.6), (1, 'validation', 0.7)]
  points += [(2, name, AFTER[reward, seed]) for name in ('validation', 'test')]
  lines = [
    json.dumps({'step': step, 'set': name, 'mean@4': x, 'greedy': x})
    for step, name, x in points
  ]
  (workdir / 'eval.jsonl').write_text('\n'.join(lines) + '\n')
  row = {'config': quickstart.CONFIGS['addition'], 'reward': reward}
  row |= {'seed': seed, 'steps': 2, 'seconds': 60.0}
  for key in quickstart.FIGURES:
    row |= {f'before_{key}': 0.6, f'after_{key}': AFTER[reward, seed]}
  (workdir / 'result.json').write_text(json.dumps(row))


def test_finished_runs_are_a_table_and_a_picture(tmp_path, monkeypatch, capsys):
  for reward, seed in AFTER:
    write_run(tmp_path / f'addition_{reward}_{seed}', reward, seed)
  paths = [tmp_path / 'images' / name for name in ('one.svg', 'two.svg')]
  for path in paths:
    flags = [f'--output={tmp_path}', '--tasks', 'addition', f'--plot={path}']
    flags += ['--seeds', '0', '1']
    monkeypatch.setattr(sys, 'argv', ['quickstart', *flags])
    quickstart.main()
  printed = capsys.readouterr().out
  start = '0.60 (0.60-0.60)'
  vote = f'| addition | majority vote | 0, 1 | {start} | 0.95 (0.90-1.00) |'
  control = f'| addition | random rewards | 0, 1 | {start} | 0.35 (0.20-0.50) |'
  assert vote in printed
  assert control in printed
  assert paths[0].read_bytes() == paths[1].read_bytes()
  drawn = ElementTree.fromstring(paths[0].read_text())
  curves = [
    path.get('style')
    for path in drawn.iter('{http://www.w3.org/2000/svg}path')
    if quickstart.STYLES['random']['color'].lower() in path.get('style', '')
    and 'fill: none' in path.get('style')
  ]
  # Two seeds, their mean, and the line of the legend.
  assert len(curves) == 4
  assert all('stroke-dasharray' in style for style in curves)
