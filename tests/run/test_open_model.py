"""Tests of opening a model for a run."""

import pytest

from configs import smoke
from sqlm_jax.config import schema as config_lib
from sqlm_jax.pretrained import tokenizer
from sqlm_jax.run import build
from tests.pretrained import families

torch = pytest.importorskip('torch')

# transformers warns about settings of tiny models.
pytestmark = pytest.mark.filterwarnings('ignore')


def test_an_invalid_template_is_an_error_only_if_it_is_used(tmp_path, caplog):
  families.make('qwen2', tmp_path, vocab_size=264, eos_token_id=256)
  tokenizer.byte_tokenizer().save(tmp_path)
  (tmp_path / 'chat_template.jinja').write_text('{{ ')
  c = smoke.get_config()
  c.model.path = str(tmp_path)
  c.mesh.data = 1
  c.task.style = 'chat'
  expected = r'chat_template\.jinja: TemplateSyntaxError'
  with pytest.raises(ValueError, match=expected):
    build.build(config_lib.from_dict(c.to_dict()))
  c.task.style = 'plain'
  parts = build.build(config_lib.from_dict(c.to_dict()))
  assert '1 + 1' in parts.task.solver_prompts('1 + 1')[0]
  assert 'Ignoring an unused chat template' in caplog.text
