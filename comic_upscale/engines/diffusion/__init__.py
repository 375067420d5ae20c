"""The engine for diffusion models of diffusers, such as FLUX: the extra ``[flux]``."""
