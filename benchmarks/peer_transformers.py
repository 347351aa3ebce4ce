"""Runs `generate` of transformers for `benchmarks.sampling`.

  python -m benchmarks.peer_transformers CONFIG DTYPE

CONFIG is the config of a Hugging Face model as JSON; its weights are random. A
request contains prompts of one length, and each prompt is continued
`group_size` times by exactly `tokens` tokens.
"""

import importlib.metadata
import json
import sys
import time

from benchmarks import workers


def main() -> None:
  parent = workers.Parent()
  import torch
  import transformers

  config = transformers.AutoConfig.for_model(**json.loads(sys.argv[1]))
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  model = transformers.AutoModelForCausalLM.from_config(
    config, dtype=getattr(torch, sys.argv[2])
  )
  model = model.to(device).eval()
  names = ('torch', 'transformers')
  parent.send(
    threads=torch.get_num_threads(),
    versions={name: importlib.metadata.version(name) for name in names},
  )
  while (question := parent.receive()) is not None:
    prompts = torch.tensor(question['prompts'], device=device)
    start = time.perf_counter()
    texts = model.generate(
      input_ids=prompts,
      attention_mask=torch.ones_like(prompts),
      num_return_sequences=question['group_size'],
      min_new_tokens=question['tokens'],
      max_new_tokens=question['tokens'],
      do_sample=True,
      temperature=1.0,
      top_k=0,
      top_p=1.0,
      pad_token_id=0,
    )
    texts = texts.cpu()
    seconds = time.perf_counter() - start
    count = (texts.shape[1] - prompts.shape[1]) * len(texts)
    parent.send(seconds=seconds, tokens=count)


if __name__ == '__main__':
  main()
