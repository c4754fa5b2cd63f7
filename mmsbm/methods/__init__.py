"""Methods: each recipe makes a tuple of steps and a model from a config."""

from mmsbm.methods import joint_vae, score_based

METHODS = {
  **dict.fromkeys(('sbm_vae', 'sbm_rae', 'mld'), score_based.make),
  **dict.fromkeys(
    (
      'mvae',
      'mmvae',
      'mopoe',
      'mmjsd',
      'mvtcae',
      'mmvaeplus',
      'hoelder',
      'diff_mvae',
    ),
    joint_vae.make,
  ),
}
