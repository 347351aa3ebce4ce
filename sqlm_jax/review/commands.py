"""Runs --mode=review: files of verdicts and votes, or the pages."""

from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from sqlm_jax import display
from sqlm_jax.config import schema
from sqlm_jax.reporting import messages
from sqlm_jax.review import rendering, server, spreadsheets
from sqlm_jax.workdir import run_reader


class Files(NamedTuple):
  """Paths of files to read or write instead of serving pages; None for none."""

  export_queue: str | None = None
  import_queue: str | None = None
  import_labels: str | None = None
  export_votes: str | None = None


def review(
  workdir: epath.PathLike,
  *,
  files: Files,
  reviewer: str = '',
  port: int = 0,
  hosts: Sequence[str] = (),
  language: str = messages.ENGLISH,
) -> None:
  """Reads and writes the files that are named, or serves the pages.

  Args:
    workdir: Directory of the run.
    files: Files to read or write; the imports come first.
    reviewer: Name of the reviewer.
    port: Port of the server, 0 for a free one.
    hosts: Host names of the server in addition to this machine.
    language: Language of the pages, one of `messages.LANGUAGES`.

  Raises:
    ValueError: If the workdir has no run, or a file is not as expected.
  """
  if not any(files):
    server.serve(
      workdir,
      templates=rendering.make_templates(language),
      port=port,
      reviewer=reviewer,
      hosts=hosts,
    )
    return
  config = schema.from_dict(run_reader.config(workdir))
  rows = {}
  if path := files.import_labels:
    count = spreadsheets.import_labels(workdir, config, path, reviewer)
    rows['labels read'] = f'{count} from {path}'
  if path := files.import_queue:
    count = spreadsheets.import_queue(workdir, config, path, reviewer)
    rows['verdicts read'] = f'{count} from {path}'
  if path := files.export_queue:
    count = spreadsheets.export_queue(workdir, config, path)
    rows['votes waiting'] = f'{count} written to {path}'
  if path := files.export_votes:
    count = spreadsheets.export_votes(workdir, config, path)
    rows['votes'] = f'{count} written to {path}'
  display.summary(f'Review of {workdir}', rows)
