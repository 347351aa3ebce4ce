"""Self-Questioning Language Models in JAX (Chen et al., 2025)."""

import os

# Silences the warning of transformers that torch, which is unused, is missing.
os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
