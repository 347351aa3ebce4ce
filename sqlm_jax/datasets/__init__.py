"""Labelled questions for evaluations: generated ones, and files (floor 2).

Generated datasets are tensorflow-datasets builders, prepared once in the cache
and read through `tfds.data_source`, without TensorFlow.
"""
