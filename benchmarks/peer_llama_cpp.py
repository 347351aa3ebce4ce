"""Runs llama.cpp's side of `benchmarks.sampling` with llama-cpp-python.

  python -m benchmarks.peer_llama_cpp FILE.gguf

Every prompt is prefilled once, and its keys and values are shared by its group.
One batch decodes one token of every response. The weights keep the quantization
that they have in the file.
"""

import importlib.metadata
import logging
import os
import sys
import time

from benchmarks import workers

ROWS, SLOTS = 128, 32768


def main() -> None:
  parent = workers.Parent()
  # Otherwise the library logs every tensor.
  logging.getLogger('llama-cpp-python').setLevel(logging.ERROR)
  import llama_cpp as llama

  llama.llama_backend_init()
  model = llama.llama_model_load_from_file(
    sys.argv[1].encode(), llama.llama_model_default_params()
  )
  settings = llama.llama_context_default_params()
  settings.n_ctx, settings.n_batch, settings.n_seq_max = SLOTS, 2048, ROWS
  settings.n_threads = settings.n_threads_batch = len(os.sched_getaffinity(0))
  settings.kv_unified = True  # otherwise each row has only SLOTS / ROWS slots
  context = llama.llama_init_from_model(model, settings)
  sampler = llama.llama_sampler_chain_init(
    llama.llama_sampler_chain_default_params()
  )
  llama.llama_sampler_chain_add(sampler, llama.llama_sampler_init_dist(0))
  batch = llama.llama_batch_init(settings.n_batch, 0, 1)
  memory = llama.llama_get_memory(context)

  def decode(tokens, positions, rows, wanted):
    """Processes tokens and computes the logits of those in `wanted`."""
    batch.n_tokens = len(tokens)
    for i, values in enumerate(
      zip(tokens, positions, rows, wanted, strict=True)
    ):
      batch.token[i], batch.pos[i], batch.seq_id[i][0], batch.logits[i] = values
      batch.n_seq_id[i] = 1
    if llama.llama_decode(context, batch):
      raise RuntimeError('llama_decode: no room')

  def sample(question):
    prompts, group_size = question['prompts'], question['group_size']
    llama.llama_memory_clear(memory, True)
    last, positions = [], []
    for number, prompt in enumerate(prompts):
      first, length = number * group_size, len(prompt)
      wanted = [i == length - 1 for i in range(length)]
      decode(prompt, range(length), [first] * length, wanted)
      for row in range(first, first + group_size):
        if row != first:
          llama.llama_memory_seq_cp(memory, first, row, -1, -1)
        last.append(llama.llama_sampler_sample(sampler, context, -1))
        positions.append(length)
    rows, drawn = range(len(last)), len(last)
    for _ in range(question['tokens'] - 1):
      decode(last, positions, rows, [True] * len(rows))
      last = [llama.llama_sampler_sample(sampler, context, i) for i in rows]
      positions = [position + 1 for position in positions]
      drawn += len(last)
    return drawn

  parent.send(
    threads=settings.n_threads,
    versions={
      'llama-cpp-python': importlib.metadata.version('llama-cpp-python')
    },
  )
  while (question := parent.receive()) is not None:
    start = time.perf_counter()
    drawn = sample(question)
    parent.send(seconds=time.perf_counter() - start, tokens=drawn)


if __name__ == '__main__':
  main()
