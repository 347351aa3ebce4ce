"""Labeled evaluation questions, generated or read from files.

Generated datasets are tensorflow-datasets builders. Each dataset is prepared
once in the cache and read through `tfds.data_source`, without TensorFlow.
"""
