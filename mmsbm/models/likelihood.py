"""Likelihoods of a trained model, as the bounds and densities that one can compute.

All are in nats per example. The models and variables are those of
`models.score_based.ScoreBasedModel`, autoencoders of the modalities under a score
model of the joined, standardised latents, and of `models.joint_vae.JointModel`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from mmsbm.diffusion.probability_flow import ProbabilityFlow
from mmsbm.distributions import DiagGaussian
from mmsbm.infra.rng import row_normal, substream
from mmsbm.latents import NOISY, OBSERVED


def latent_log_prob(
  model, flow: ProbabilityFlow, variables, keys, z, observed
) -> tuple[jax.Array, jax.Array]:
  """log p(free latents | observed latents) of the score model.

  Observed latents are shown clean, at time 0, whatever the conditioning of the
  samplers: rows with any need a score model that was trained so.

  Args:
    model: a ScoreBasedModel.
    flow: how the density is integrated.
    variables: of the model.
    keys: typed keys [B], for the random directions of the flow.
    z: standardised latents [B, D].
    observed: [B, M] bool.

  Returns:
    Nats [B], as a density of standardised latents, and the standard error [B] of
    the random directions.
  """
  layout, score = model.layout, model.score
  role = jnp.where(observed, OBSERVED, NOISY)

  def score_fn(z, t):
    net_t = jnp.where(observed, 0.0, t)
    return score.score(variables['score'], z, layout.expand(net_t), net_t, role)

  free = ~layout.expand(observed)
  return flow(keys, score_fn, z, sde=score.sde, free=free)


def _draw(posterior: DiagGaussian, keys: jax.Array, number: jax.Array) -> jax.Array:
  """Draw `number` of every row from its posterior, [B, d]."""
  noise = row_normal(keys, number, posterior.mean.shape[1:])
  return posterior.mean + jnp.exp(0.5 * posterior.log_var) * noise


def vae_log_weights(
  autoencoder, variables, keys: jax.Array, raw: jax.Array, num_samples: int
) -> jax.Array:
  """log p(x|z) + log N(z; 0, I) - log q(z|x) at draws from q(z|x).

  Their `importance_bound` is the bound on log p(x) of Burda et al., 2016
  (arXiv 1509.00519, eq. 8); their mean is the evidence lower bound. Both bound the
  generative model N(0, I) -> decoder -> likelihood with its own scale. A VAE
  trained with beta other than 1 maximised something else, but this is still a
  bound on its log p(x).

  Args:
    autoencoder: a VAE learner.
    variables: of its network.
    keys: typed keys [B].
    raw: examples [B, *shape] as files hold them.
    num_samples: K.

  Returns:
    [K, B]. Draws are decoded one after the other: memory does not grow with K.
  """
  network, codec = autoencoder.network, autoencoder.codec
  x = codec.kind.to_model(raw)
  posterior = network.apply(variables, x, method='encode')
  prior = posterior.prior_like(posterior.mean)

  def log_weight(number):
    z = _draw(posterior, keys, number)
    output = network.apply(variables, z, method='decode')
    log_likelihood = codec.likelihood.log_prob(output, x)
    return log_likelihood + prior.log_prob(z) - posterior.log_prob(z)

  return jax.lax.map(log_weight, jnp.arange(num_samples))


def importance_bound(log_weights: jax.Array) -> jax.Array:
  """log of the mean of K importance weights [K, B], [B]; grows with K on average."""
  return jax.nn.logsumexp(log_weights, axis=0) - math.log(log_weights.shape[0])


def exchange_prior(
  posterior: DiagGaussian, mean: jax.Array, std: jax.Array
) -> DiagGaussian:
  """The posterior with its prior N(0, I) replaced by N(mean, std^2).

  Divides one Gaussian out and multiplies the other in, in every dimension. Where
  the posterior is wider than N(0, 1) the data say nothing and the new prior is left.

  Args:
    posterior: under N(0, I), [B, d].
    mean: of the new prior, [d].
    std: of the new prior, [d].
  """
  inverse = jnp.exp(-posterior.log_var)
  from_data = jnp.maximum(inverse - 1, 0.0)
  shift = jnp.where(from_data > 0, inverse * posterior.mean, 0.0)
  # Multiplied by std^2, which is next to 0 where the encoder ignores a dimension.
  square = jnp.square(std)
  relative = 1 + square * from_data
  return DiagGaussian(
    mean=(mean + square * shift) / relative,
    log_var=2 * jnp.log(std) - jnp.log(relative),
  )


def joint_log_weight(
  model, flow: ProbabilityFlow, variables, keys: jax.Array, raw: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
  """sum_m log p(x_m|z_m) + log p(z) - sum_m log q'(z_m|x_m), with one draw from q'.

  p(z) is the density of the score model; its mean over draws and examples is a lower
  bound on log p(x_1, ..., x_M) of the whole model, the evidence lower bound. A
  bound that takes the logarithm of a mean of weights would not be one with
  Hutchinson's estimate of the divergence, whose noise is averaged here.

  The score model knows the posterior *means* only, whose spread along a dimension
  that an encoder ignores is next to 0, whereas q(z|x) there is N(0, 1). Draws from
  q would be where p(z) is next to 0. So q' is q with its prior exchanged for the
  mean and variance of the latents (`exchange_prior`); every q' gives a bound.

  Args:
    model: a ScoreBasedModel of VAEs.
    flow: how log p(z) is integrated.
    variables: of the model.
    keys: typed keys [B].
    raw: examples as files hold them, one array [B, *shape] per modality.

  Returns:
    Nats [B], and the standard error [B] of the flow's random directions.
  """
  layout, stats = model.layout, variables['latents']
  means, stds = layout.split(stats['mean']), layout.split(stats['std'])
  parts, total = [], 0.0
  for i, autoencoder in enumerate(model.autoencoders):
    network, codec = autoencoder.network, autoencoder.codec
    weights = variables['unimodal'][codec.name]
    x = codec.kind.to_model(raw[i])
    posterior = network.apply(weights, x, method='encode')
    posterior = exchange_prior(posterior, means[i], stds[i])
    z = _draw(posterior, keys, i)
    output = network.apply(weights, z, method='decode')
    total += codec.likelihood.log_prob(output, x) - posterior.log_prob(z)
    parts.append(z)
  z = (layout.join(parts) - stats['mean']) / stats['std']
  observed = jnp.zeros((z.shape[0], layout.num_modalities), bool)
  log_prior, stderr = latent_log_prob(model, flow, variables, keys, z, observed)
  # The score model's density is of standardised latents.
  return total + log_prior - jnp.log(stats['std']).sum(), stderr


def joint_vae_log_weights(
  model,
  variables,
  keys: jax.Array,
  encoded: Any,
  raw: tuple[jax.Array, ...],
  observed: jax.Array,
  num_samples: int,
) -> tuple[jax.Array, jax.Array]:
  """Importance weights of a joint VAE at draws from its posterior.

  The latents z, private ones included, are drawn from q(z | observed):

    log p(observed | z) + log p(z) - log q(z | observed)

  are log weights of log p(observed), see `importance_bound`, and

    log p(x_m | z)

  those of the density of x_m as the model generates it from what is observed.

  Args:
    model: a JointModel.
    variables: of the model.
    keys: typed keys [B].
    encoded: moments of the examples, see `JointModel.encode`.
    raw: examples as files hold them, one array [B, *shape] per modality.
    observed: [B, M] bool.
    num_samples: K.

  Returns:
    [K, B], and [K, B, M] for every modality m.
  """
  x = tuple(m.kind.to_model(a) for m, a in zip(model.modalities, raw, strict=True))

  def log_weights(number):
    latents, ratio = model.draw(variables, substream(keys, number), encoded, observed)
    log_p = [
      m.likelihood.log_prob(output, a)
      for m, output, a in zip(
        model.codecs, model.outputs(variables, latents), x, strict=True
      )
    ]
    log_p = jnp.stack(log_p, axis=-1)
    return jnp.where(observed, log_p, 0.0).sum(-1) + ratio, log_p

  return jax.lax.map(log_weights, jnp.arange(num_samples))
