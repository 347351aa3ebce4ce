"""Tests that only the user's own browser reaches the review pages."""

import pytest
from starlette import testclient

from sqlm_jax.review import access, server
from sqlm_jax.workdir import reviews
from tests.review import runs

TOKEN = 'tOkEn-of-this-start'
OWN = {'Sec-Fetch-Site': 'same-origin', 'Origin': 'http://127.0.0.1:80'}
FORM = {'step': '2', 'index': '0', 'verdict': 'accept', 'reviewer': 'ann'}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return runs.write_run(tmp_path_factory.mktemp('run'))


@pytest.fixture
def client(run):
  app = server.make_app(run, token=TOKEN, hosts=('notebook.example',))
  return testclient.TestClient(
    app, base_url='http://127.0.0.1:80', headers={'Host': '127.0.0.1:80'}
  )


def post(client, headers, path='verdict', **changes):
  form = FORM | {'id': '0' * 16} | changes
  return client.post(
    f'/{TOKEN}/{path}', data=form, headers=headers, follow_redirects=False
  )


def test_every_response_has_the_headers(client):
  for path in ('', 'queue', 'style.css', 'no-such-page'):
    headers = client.get(f'/{TOKEN}/{path}').headers
    policy = headers['content-security-policy']
    assert "default-src 'none'" in policy
    assert 'unsafe-inline' not in policy
    assert headers['cache-control'] == 'no-store'
    assert headers['x-content-type-options'] == 'nosniff'
    assert headers['referrer-policy'] == 'same-origin'
  assert client.get('/wrong/').headers['cache-control'] == 'no-store'


@pytest.mark.parametrize(
  'path', ['/', '', f'/{TOKEN}', f'/{TOKEN}x/', f'/{TOKEN[:-1]}/', '/é/', '//']
)
def test_a_guessed_token_is_refused(client, path):
  response = client.get(path, follow_redirects=False)
  assert response.status_code == 404
  assert runs.SCRIPT not in response.text


@pytest.mark.parametrize(
  'host', ['evil.example', '127.0.0.1.evil.example', '', '[', 'a@evil.example']
)
def test_another_host_name_is_refused(client, host):
  response = client.get(f'/{TOKEN}/', headers={'Host': host})
  assert response.status_code == 400


@pytest.mark.parametrize(
  'host', ['127.0.0.1:80', 'localhost:8000', 'notebook.example']
)
def test_the_own_and_the_allowed_host_names_are_served(client, host):
  assert client.get(f'/{TOKEN}/', headers={'Host': host}).status_code == 200


@pytest.mark.parametrize(
  'headers',
  [
    {},
    {'Origin': 'https://evil.example'},
    {'Origin': 'null'},
    {'Origin': 'http://127.0.0.1:8888'},  # another server on this machine
    {'Origin': 'file://127.0.0.1:80'},
    {'Sec-Fetch-Site': 'cross-site'},
    {'Sec-Fetch-Site': 'same-site'},
    {'Sec-Fetch-Site': 'none'},
    {'Sec-Fetch-Site': 'same-origin', 'Origin': 'https://evil.example'},
    {'Sec-Fetch-Site': 'cross-site', 'Origin': 'http://127.0.0.1:80'},
  ],
)
def test_a_form_of_another_page_is_refused(client, run, headers):
  assert post(client, headers).status_code == 403
  assert reviews.read(run) == []


@pytest.mark.parametrize(
  'headers',
  [OWN, {'Origin': 'http://127.0.0.1:80'}, {'Sec-Fetch-Site': 'same-origin'}],
)
def test_a_form_of_this_server_passes(client, headers):
  # It is stale, which only the page itself can find out.
  assert post(client, headers).status_code == 409


def test_no_get_changes_anything(client, run):
  for path in ('verdict', 'undo'):
    assert client.get(f'/{TOKEN}/{path}', params=FORM).status_code == 405
  for method in ('PUT', 'DELETE', 'PATCH', 'OPTIONS', 'TRACE'):
    assert client.request(method, f'/{TOKEN}/verdict').status_code == 405
  assert reviews.read(run) == []


def test_a_large_form_is_refused(client):
  assert post(client, OWN, answer='x' * access.MAX_BODY).status_code == 413
  stream = iter([b'step=1'])  # without a length
  response = client.post(f'/{TOKEN}/verdict', content=stream, headers=OWN)
  assert response.status_code == 413


@pytest.mark.parametrize(
  'path',
  [
    '../config.json',
    '..%2f..%2fetc%2fpasswd',
    'static/../config.json',
    '%2e%2e/config.json',
    'step?step=../../config.json',
    'question?step=0&index=..',
    'style.css/../../config.json',
    'config.json',
    'static/style.css',
  ],
)
def test_no_path_of_a_request_is_opened(client, path):
  response = client.get(f'/{TOKEN}/{path}')
  assert 'answer_kind' not in response.text
  assert 'root:' not in response.text
  assert response.status_code in (200, 404)


def test_a_link_out_of_the_run_is_refused(tmp_path):
  run = runs.write_run(tmp_path / 'run')
  secret = tmp_path / 'secret.parquet'
  path = run / 'rollouts' / 'step_00000002.parquet'
  path.rename(secret)
  path.symlink_to(secret)
  (run / 'alarms.jsonl').symlink_to('/etc/passwd')
  app = server.make_app(run, token=TOKEN)
  client = testclient.TestClient(app, base_url='http://127.0.0.1')
  for page in ('', 'step?step=2'):
    response = client.get(f'/{TOKEN}/{page}')
    assert response.status_code == 500
    assert 'not a link to' in response.text
    assert 'root:' not in response.text
  assert client.get(f'/{TOKEN}/step?step=1').status_code == 200


def test_a_name_cannot_inject_a_header(client):
  name = 'ann\r\nSet-Cookie: a=b\r\n\r\n<script>'
  response = post(client, OWN, path='undo', reviewer=name, order='x\r\nA: b')
  assert response.status_code == 303
  assert response.headers['location'].startswith('queue?')
  assert 'set-cookie' not in response.headers
  assert '\r' not in response.headers['location']
  assert '\n' not in response.headers['location']


def test_a_redirect_stays_on_this_server(client):
  response = post(client, OWN, path='undo', order='//evil.example')
  assert response.headers['location'].startswith('queue?')
