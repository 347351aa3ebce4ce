"""Downloads models of the Hugging Face hub into the hub's cache."""

import pathlib
import re

import huggingface_hub
from huggingface_hub import constants, errors

# `org/name`, optionally with a commit, tag or branch.
_ID = re.compile(r'(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?')
# The files that are read, without other formats of the same weights.
FILES = (
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
    ValueError: if the path is not a hub id.
    RuntimeError: if the model cannot be obtained. The message says why and
      what to do.
  """
  match = _ID.fullmatch(path)
  name = f'model.path={path!r}'
  if match is None:
    raise ValueError(f'{name}: expected org/name or org/name@revision')
  try:
    directory = huggingface_hub.snapshot_download(
      match['repo'],
      revision=match['revision'],
      allow_patterns=list(FILES),
      ignore_patterns=list(_ELSEWHERE),
    )
  except errors.RevisionNotFoundError:
    raise RuntimeError(
      f'{name}: the model has no revision {match["revision"]!r}'
    ) from None
  except errors.GatedRepoError:
    raise RuntimeError(
      f'{name}: access to the model is restricted. Request access on its '
      'page, then run `hf auth login` with a token that may read it'
    ) from None
  except errors.RepositoryNotFoundError:
    raise RuntimeError(
      f'{name}: no file or directory has this name, and the hub has no such '
      'model. If it is private, run `hf auth login` with a token that may '
      'read it'
    ) from None
  except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
    raise RuntimeError(
      f'{name}: no file or directory has this name, the cache of the hub does '
      f'not contain it, and {constants.ENDPOINT} could not be reached. Without '
      'a network, pass a directory or a GGUF file'
    ) from None
  except (errors.HfHubHTTPError, errors.HFValidationError) as error:
    raise RuntimeError(f'{name}: {" ".join(str(error).split())}') from None
  return pathlib.Path(directory)
