"""A small latent diffusion model of aligned faces, conditioned on an identity embedding.

`nets` is the model on disk, `population` whom it may invent, `faces` what it is fitted on, `fit`
the fitting, `sampling` the drawing. `synthesis.diffusion` makes a generator of it.
"""
