"""The compiled programs: sampler and learner (floor 2)."""
