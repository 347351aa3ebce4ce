"""Measures memory and time of loading, training and exporting a real model.

  python -m benchmarks.full_size --output=/tmp/full_size

Creates a random checkpoint in the shapes of Qwen2.5-0.5B (bfloat16 safetensors,
one file). Then it loads the checkpoint, plays and learns one step, exports the
model and reads the export, each in a separate process. Prints one line of JSON
for each phase, with the peak memory of the process: its anonymous pages, and
these together with the pages of mapped files, which the system can reclaim.
"""

import argparse
import functools
import json
import pathlib
import subprocess
import sys
import threading
import time

CONFIG = """\
from configs import default

def get_config():
  c = default.get_config()
  c.model.path = {path!r}
  c.num_steps = 1
  c.task.name = 'full_size'
  c.task.topics = ('anything',)
  c.task.proposer_prompt = 'Write about {{topic}}: '
  c.task.solver_prompt = 'Answer {{question}}: '
  c.task.answer_kind = 'text'
  # Noise has no lines: a question ends at the first of many letters.
  c.task.proposer_stop = tuple('abcdefghijklmnopqrstuvwxyz|')
  c.proposer.num_questions = 4
  c.proposer.group_size = 4
  c.proposer.train_every = 1
  c.proposer.max_tokens = 32
  c.solver.group_size = 4
  c.solver.max_tokens = 8
  # Random models never agree: coin flips give both roles a gradient.
  c.solver.rewards.majority = 0.0
  c.solver.rewards.random = 1.0
  c.loss.kl_coef = 0.0
  c.loss.logits_chunk = 64
  c.optimizer.solver_updates = 1
  c.optimizer.proposer_updates = 1
  c.optimizer.groups_per_microbatch = 1
  c.checkpoint.keep = 1
  return c
"""


class PeakMemory:
  """Tracks this process's peak memory, in bytes, in a background thread."""

  def __init__(self):
    self.anonymous = self.total = 0
    self._done = threading.Event()
    self._thread = threading.Thread(target=self._follow, daemon=True)

  def __enter__(self):
    self._thread.start()
    return self

  def __exit__(self, *_):
    self._done.set()
    self._thread.join()

  def _follow(self):
    while not self._done.wait(0.005):
      sizes = {}
      for line in pathlib.Path('/proc/self/status').read_text().splitlines():
        name, _, value = line.partition(':')
        if name in ('RssAnon', 'RssFile'):
          sizes[name] = int(value.split()[0]) * 1024
      self.anonymous = max(self.anonymous, sizes['RssAnon'])
      self.total = max(self.total, sum(sizes.values()))


def make(
  path: pathlib.Path, shape: str = 'qwen2.5-0.5b', letters: int = 256
) -> None:
  """Writes a random checkpoint with a byte tokenizer.

  Args:
    path: a new directory.
    shape: a key of `models.SHAPES`.
    letters: the model mostly generates bytes below this value.
  """
  import ml_dtypes
  import numpy as np
  import safetensors.numpy
  import transformers

  from benchmarks import models
  from sqlm_jax.pretrained import families, names, tokenizer

  path.mkdir(parents=True)
  values = models.hf_config(models.SHAPES[shape]) | {'eos_token_id': 256}
  hf_config = transformers.AutoConfig.for_model(**values)
  config = families.read(hf_config)
  rng = np.random.default_rng(0)
  tensors = {}
  for entry in names.table(config):
    for layer in range(config.num_layers if entry.is_layered else 1):
      array = rng.standard_normal(entry.stored, np.float32)
      array *= 1.0 if entry.path[-1] == 'scale' else 0.02
      if entry.path == ('embedding',):
        # Makes the model generate mostly tokens with a text, or the end token.
        array *= 10
        array[letters:256] = array[257:] = 0
      array = array.astype(ml_dtypes.bfloat16)
      tensors[entry.name.format(layer)] = array
  safetensors.numpy.save_file(
    tensors, path / 'model.safetensors', metadata={'format': 'pt'}
  )
  hf_config.save_pretrained(path)
  tokenizer.byte_tokenizer().save(path)


def load(model: pathlib.Path, dtype: str) -> dict:
  """Loads all parameters onto the device and measures time and memory."""
  import jax
  import jax.numpy as jnp

  from sqlm_jax.distributed import sharding, transfers
  from sqlm_jax.pretrained import loader

  checkpoint = loader.open_checkpoint(model)
  mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), jax.devices()[:1])
  jax.block_until_ready(jnp.ones(()) + 1)
  before = memory.anonymous
  place = functools.partial(
    transfers.place_parameter, dtype=jnp.dtype(dtype), mesh=mesh
  )
  start = time.perf_counter()
  params = jax.block_until_ready(checkpoint.params(place))
  seconds = time.perf_counter() - start
  time.sleep(0.1)
  config = checkpoint.config
  model_bytes = sum(x.nbytes for x in jax.tree.leaves(params))
  return {
    'seconds': seconds,
    'model_gb': model_bytes / 1e9,
    'largest_tensor_gb': config.vocab_size
    * config.width
    * jnp.dtype(dtype).itemsize
    / 1e9,
    'above_start_gb': (memory.anonymous - before) / 1e9,
    'above_start_of_model': (memory.anonymous - before) / model_bytes,
  }


def run_main(*words: str) -> dict:
  """Runs the command line in this process and returns its seconds."""
  from absl import app

  from sqlm_jax import main as program

  sys.argv = ['sqlm_jax', *words]
  start = time.perf_counter()
  try:
    app.run(program.main, argv=sys.argv, flags_parser=program.parse_flags)
  except SystemExit as end:
    if end.code:
      raise
  return {'seconds': time.perf_counter() - start}


def compare(one: pathlib.Path, other: pathlib.Path) -> dict:
  """Counts the tensors of two directories that are equal bit for bit."""
  import numpy as np

  from sqlm_jax.pretrained import safetensors

  a, b = (safetensors.DirectoryTensors(path) for path in (one, other))
  assert a.names() == b.names()
  equal = [np.array_equal(a.read(n), b.read(n)) for n in sorted(a.names())]
  return {'tensors': len(equal), 'equal': sum(equal)}


def phases(output: pathlib.Path) -> dict:
  """Returns the functions of all phases by name, in order of execution."""
  model, workdir = output / 'model', output / 'run'
  config = output / 'full_size_config.py'
  export = ['--mode=export', f'--config={config}', '--export_dtype=bfloat16']

  def size(name):
    files = (output / name).glob('*.safetensors')
    return {'tensors_gb': sum(file.stat().st_size for file in files) / 1e9}

  def train():
    config.write_text(CONFIG.format(path=str(model)))
    return run_main(f'--config={config}', f'--workdir={workdir}')

  return {
    'make': lambda: make(model) or {},
    'load bfloat16': lambda: load(model, 'bfloat16'),
    'load float32': lambda: load(model, 'float32'),
    'one step': train,
    'export untrained': lambda: (
      run_main(*export, f'--export_dir={output / "untrained"}')
      | size('untrained')
    ),
    'export trained': lambda: (
      run_main(
        *export, f'--workdir={workdir}', f'--export_dir={output / "out"}'
      )
      | size('out')
    ),
    'untrained against the source': lambda: compare(
      model, output / 'untrained'
    ),
    'trained against the source': lambda: compare(model, output / 'out'),
  }


memory = PeakMemory()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--output', type=pathlib.Path, required=True)
  parser.add_argument('--phase', help='one phase, in this process')
  args = parser.parse_args()
  if args.phase:
    with memory:
      result = phases(args.output)[args.phase]()
    result |= {
      'peak_gb': memory.anonymous / 1e9,
      'peak_with_mapped_files_gb': memory.total / 1e9,
    }
    rounded = {
      k: round(v, 3) if isinstance(v, float) else v for k, v in result.items()
    }
    (args.output / 'result.json').write_text(json.dumps(rounded))
    return
  if args.output.exists():
    parser.error(f'--output={args.output}: expected a directory to be made')
  args.output.mkdir(parents=True)
  for phase in phases(args.output):
    command = [sys.executable, '-m', 'benchmarks.full_size']
    command += [f'--output={args.output}', f'--phase={phase}']
    subprocess.run(command, check=True)
    result = json.loads((args.output / 'result.json').read_text())
    print(json.dumps({'phase': phase} | result), flush=True)


if __name__ == '__main__':
  main()
