"""Describes the data that a run was trained on, for people and for programs.

The data card is Markdown. The same description as Croissant metadata
(Akhtar et al., 2024) lets programs load the rows of `rollouts/`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from etils import epath

from sqlm_jax.evaluation import report as evaluation_report
from sqlm_jax.pretrained import catalog
from sqlm_jax.reporting import figures, tallies
from sqlm_jax.workdir import rollouts, run_reader

_MAX_BLOCKS = 20  # rows of the table of steps
_MAX_TOPICS = 20

# Croissant's names of the types of the columns.
_TYPES = {
  pa.string(): 'sc:Text',
  pa.bool_(): 'sc:Boolean',
  pa.int32(): 'sc:Integer',
  pa.int64(): 'sc:Integer',
  pa.float32(): 'sc:Float',
}


class Card(NamedTuple):
  """The facts of a data card.

  Attributes:
    name: Name of the run.
    config: Stored config of the run.
    footer: What the run was made with, see `run_reader.footer`.
    license: License of the base model, None if it is not known.
    tallies: Counts of questions and answers.
    labels: Numbers of questions with and without labels.
    evaluation_sets: Name, origin and number of questions of each set.
  """

  name: str
  config: Mapping[str, Any]
  footer: Mapping[str, str]
  license: str | None
  tallies: tallies.Tallies
  labels: figures.Labels
  evaluation_sets: Sequence[tuple[str, str, int]]


def read(
  workdir: epath.PathLike,
  counted: tallies.Tallies,
  labels: figures.Labels,
) -> Card:
  """Reads the facts of a run.

  Args:
    workdir: Directory of the run.
    counted: Counts of questions and answers, from `tallies.read`.
    labels: Numbers of questions with and without labels.
  """
  config = run_reader.config(workdir)
  steps = run_reader.steps(workdir)
  packaged = catalog.MODELS.get(config['model']['path'])
  sets = {}
  for result in run_reader.evaluations(workdir):
    origin = (result.get('settings') or {}).get('origin', '')
    sets[str(result.get('set'))] = str(origin), int(result.get('questions', 0))
  return Card(
    name=epath.Path(workdir).name or 'run',
    config=config,
    footer=run_reader.footer(workdir, steps[-1]) if steps else {},
    license=packaged.license if packaged else None,
    tallies=counted,
    labels=labels,
    evaluation_sets=[(name, *rest) for name, rest in sorted(sets.items())],
  )


def to_markdown(card: Card) -> str:
  """Returns the data card as Markdown."""
  code, table = evaluation_report.code, evaluation_report.table
  steps, labels = card.tallies.steps, card.labels
  sections = [
    f'# Data card of the run {code(card.name)}',
    _origin(card),
    '## Contents',
    table(
      ['', 'number'],
      [
        ['steps', str(len(steps))],
        ['responses of the proposer', str(sum(s.proposed for s in steps))],
        ['questions that were answered', str(sum(s.solved for s in steps))],
        ['answers', str(sum(s.answers for s in steps))],
        [
          'answers that were trained on',
          str(sum(s.trained_answers for s in steps)),
        ],
        [
          'responses of the proposer that were trained on',
          str(sum(s.trained_proposals for s in steps)),
        ],
        [
          'different questions that were trained on',
          str(_num_trained_questions(card)),
        ],
      ],
    ),
    '## Labels and reviews',
    _reviews(labels, _num_trained_questions(card)),
    '## By step',
    table(
      [
        'steps',
        'proposed',
        'answered',
        'refused or without a majority',
        'answers trained on',
      ],
      _by_step(steps),
    ),
    '## By reason',
    'Questions that were refused or had no majority. docs/watch.md explains '
    'the reasons.',
    table(
      ['reason', 'questions'],
      [
        [code(reason), str(count)]
        for reason, count in card.tallies.reasons().most_common()
      ],
    ),
    '## Evaluation sets',
    'The answers of these questions were not trained on. The questions '
    'themselves may have been asked, unless '
    "`evaluation.contaminated='exclude'` is set: here it is "
    f'{code(str(card.config["evaluation"].get("contaminated")))}.',
    table(
      ['set', 'origin', 'questions'],
      [
        [code(name), code(origin), str(number)]
        for name, origin, number in card.evaluation_sets
      ],
    ),
    '## What is not known',
    'A model wrote all questions and answers. Nobody has checked them, except '
    'for the reviews above. They may be wrong, and they may repeat texts that '
    'the base model was trained on.',
    '## Provenance',
    table(
      ['', 'value'],
      [[name, _value(value)] for name, value in card.footer.items()],
    ),
  ]
  return '\n\n'.join(sections) + '\n'


def _origin(card: Card) -> str:
  task, model = card.config['task'], card.config['model']
  code = evaluation_report.code
  license_text = card.license or 'not known, see the page of the model'
  topics = ', '.join(code(topic) for topic in task['topics'][:_MAX_TOPICS])
  source = f'The proposer wrote the questions, for these topics: {topics}.'
  if task.get('questions'):
    source = f'The questions are those of {code(str(task["questions"]))}.'
  return (
    'The rows of `rollouts/` are what this run was trained on. '
    f'{source} The base model is {code(model["path"])}; its license: '
    f'{license_text}. The task is {code(task["name"])}.'
  )


def _value(value: str) -> str:
  """Returns a value as code; a hash is shown in full."""
  if re.fullmatch(r'[\w.+-]+', value):
    return f'`{value}`'
  return evaluation_report.code(value)


def _num_trained_questions(card: Card) -> int:
  counted = card.tallies
  return len(counted.trained_by_vote | counted.trained_by_verdict)


def _reviews(labels: figures.Labels, trained: int) -> str:
  if labels.rewards_true:
    return (
      'The rewards of this run compare answers with true answers. Every '
      'question has a label.'
    )
  share = labels.by_verdict / trained if trained else 0.0
  return (
    f'People have decided about {labels.by_people} questions, and the '
    f'simulated reviewer about {labels.by_checker}. For {labels.by_verdict} of '
    f'the {trained} questions that were trained on ({share:.1%}), the true '
    'answer of a verdict decided the rewards. For all others, the vote or the '
    'tests decided them.'
  )


def _by_step(steps: Sequence[tallies.StepTally]) -> list[list[str]]:
  """Returns rows for blocks of steps."""
  size = max(math.ceil(len(steps) / _MAX_BLOCKS), 1)
  rows = []
  for start in range(0, len(steps), size):
    block = steps[start : start + size]
    first, last = block[0].step, block[-1].step
    rows.append(
      [
        str(first) if first == last else f'{first} to {last}',
        str(sum(s.proposed for s in block)),
        str(sum(s.solved for s in block)),
        str(sum(s.reasons.total() for s in block)),
        str(sum(s.trained_answers for s in block)),
      ]
    )
  return rows


def to_croissant(card: Card) -> dict[str, Any]:
  """Returns Croissant metadata of `rollouts/` as JSON-LD.

  The paths in it are relative to the workdir.
  """
  base = f'{card.config["model"]["path"]}'
  license_text = card.license or 'not known'
  return {
    '@context': _CONTEXT,
    '@type': 'sc:Dataset',
    'conformsTo': [
      'http://mlcommons.org/croissant/1.0',
      'http://mlcommons.org/croissant/RAI/1.0',
    ],
    'name': f'rollouts of {card.name}',
    'description': (
      'Questions and answers that a language model wrote and was trained on in '
      f'self-play, with votes and rewards. Base model: {base} (license: '
      f'{license_text}). Task: {card.config["task"]["name"]}.'
    ),
    'version': '1.0.0',
    'rai:dataCollection': (
      'Sampled from a language model by sqlm_jax '
      f'{card.footer.get("code_version", "")}.'
    ),
    'rai:dataAnnotationProtocol': _reviews(
      card.labels, _num_trained_questions(card)
    ),
    'distribution': [
      {
        '@type': 'cr:FileSet',
        '@id': 'rollout-files',
        'name': 'rollout-files',
        'encodingFormat': 'application/x-parquet',
        'includes': 'rollouts/*.parquet',
      }
    ],
    'recordSet': [
      {
        '@type': 'cr:RecordSet',
        '@id': 'responses',
        'name': 'responses',
        'description': 'One record for each response of the model.',
        'field': [_field(column) for column in rollouts.SCHEMA],
      }
    ],
  }


def _field(column: pa.Field) -> dict[str, Any]:
  return {
    '@type': 'cr:Field',
    '@id': f'responses/{column.name}',
    'name': column.name,
    'description': column.metadata[b'about'].decode(),
    'dataType': _TYPES[column.type],
    'source': {
      'fileSet': {'@id': 'rollout-files'},
      'extract': {'column': column.name},
    },
  }


# The context that the specification of Croissant 1.0 prescribes.
_CONTEXT = {
  '@language': 'en',
  '@vocab': 'https://schema.org/',
  'arrayShape': 'cr:arrayShape',
  'citeAs': 'cr:citeAs',
  'column': 'cr:column',
  'conformsTo': 'dct:conformsTo',
  'cr': 'http://mlcommons.org/croissant/',
  'rai': 'http://mlcommons.org/croissant/RAI/',
  'data': {'@id': 'cr:data', '@type': '@json'},
  'dataType': {'@id': 'cr:dataType', '@type': '@vocab'},
  'dct': 'http://purl.org/dc/terms/',
  'equivalentProperty': 'cr:equivalentProperty',
  'examples': {'@id': 'cr:examples', '@type': '@json'},
  'extract': 'cr:extract',
  'field': 'cr:field',
  'fileProperty': 'cr:fileProperty',
  'fileObject': 'cr:fileObject',
  'fileSet': 'cr:fileSet',
  'format': 'cr:format',
  'includes': 'cr:includes',
  'isArray': 'cr:isArray',
  'isLiveDataset': 'cr:isLiveDataset',
  'jsonPath': 'cr:jsonPath',
  'key': 'cr:key',
  'md5': 'cr:md5',
  'parentField': 'cr:parentField',
  'path': 'cr:path',
  'recordSet': 'cr:recordSet',
  'references': 'cr:references',
  'regex': 'cr:regex',
  'repeated': 'cr:repeated',
  'replace': 'cr:replace',
  'samplingRate': 'cr:samplingRate',
  'sc': 'https://schema.org/',
  'separator': 'cr:separator',
  'source': 'cr:source',
  'subField': 'cr:subField',
  'transform': 'cr:transform',
}
