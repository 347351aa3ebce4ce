"""Compiled programs: the sampler and the learner (floor 2)."""
