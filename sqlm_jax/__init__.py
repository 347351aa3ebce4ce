"""Self-Questioning Language Models in JAX (Chen et al., 2025)."""

import os

# transformers says on import that torch is missing; it is not needed here.
os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
