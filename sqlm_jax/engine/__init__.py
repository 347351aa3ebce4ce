"""Compiled programs: the sampler and the learner."""
