"""Multimodal generation with score-based and diffusion models, in JAX."""

__all__ = ['Run', 'load']  # noqa: F822 (see __getattr__)


def __getattr__(name: str):
  # Importing a part of the library must not import all of it.
  if name in __all__:
    from mmsbm import api

    return getattr(api, name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
