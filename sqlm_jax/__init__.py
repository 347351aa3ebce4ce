"""Self-Questioning Language Models in JAX (Chen et al., 2025)."""
