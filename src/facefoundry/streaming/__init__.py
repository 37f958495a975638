"""Faces that are made while a network learns from them, all of it on one GPU.

`painter` draws faces of new identities, `aligner` finds and cuts them out, `morphs` makes more
between them, `augmentation` photographs them badly, and `loader` hands them to the training.
"""
