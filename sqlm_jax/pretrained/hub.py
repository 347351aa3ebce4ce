"""Downloads models of the Hugging Face hub into the hub's cache."""

import pathlib
import re

import huggingface_hub
from huggingface_hub import constants, errors

# `org/name`, optionally with a commit, tag or branch.
_ID = re.compile(r'(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?')
# The files that are read, without other formats of the same weights.
_FILES = (
  'config.json',
  'generation_config.json',
  '*.safetensors',
  'model.safetensors.index.json',
  'tokenizer.json',
  'tokenizer.model',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'vocab.json',
  'merges.txt',
  'chat_template.jinja',
  'chat_template.json',
)
_ELSEWHERE = ('*/*',)  # subdirectories hold copies of the weights


def is_id(path: str) -> bool:
  """Returns True if a path may be `org/name` or `org/name@revision`."""
  return _ID.fullmatch(path) is not None


def fetch(path: str) -> pathlib.Path:
  """Returns the local directory of a hub id, downloading it if needed.

  A commit that is in the cache is not downloaded again. Without a revision,
  the newest revision on the hub is used, or the cached one if the hub cannot
  be reached.

  Args:
    path: `org/name` or `org/name@revision`.

  Raises:
    RuntimeError: if the model cannot be obtained. The message says why and
      what to do.
  """
  match = _ID.fullmatch(path)
  name = f'model.path={path!r}'
  try:
    found = huggingface_hub.snapshot_download(
      match['repo'],
      revision=match['revision'],
      allow_patterns=list(_FILES),
      ignore_patterns=list(_ELSEWHERE),
    )
  except errors.RevisionNotFoundError:
    raise RuntimeError(
      f'{name}: the model has no revision {match["revision"]!r}'
    ) from None
  except errors.GatedRepoError:
    raise RuntimeError(
      f'{name}: its owners ask for consent first: give it on the page of the '
      'model, then `hf auth login` with a token that may read it'
    ) from None
  except errors.RepositoryNotFoundError:
    raise RuntimeError(
      f'{name}: there is no file and no directory of that name, and no such '
      'model on the hub, or a private one: `hf auth login` with a token that '
      'may read it'
    ) from None
  except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
    raise RuntimeError(
      f'{name}: there is no file and no directory of that name, it is not in '
      f'the cache of the hub, and {constants.ENDPOINT} was not reached. Where '
      'there is no network, name a directory or a GGUF file'
    ) from None
  except (errors.HfHubHTTPError, errors.HFValidationError) as error:
    raise RuntimeError(f'{name}: {" ".join(str(error).split())}') from None
  return pathlib.Path(found)
