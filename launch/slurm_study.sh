#!/usr/bin/env bash
# A study on a Slurm cluster, its rows shared out over the tasks of an array:
#   sbatch --array=0-7 --partition=PARTITION launch/slurm_study.sh \
#     --study=configs/studies/any_to_any.py --workdir=runs/studies/digits
# Run it in the root of the repository, which all nodes must see, and `bash
# launch/study.sh --help` once before, so that the tasks find the environment made.
# A task that is killed, or put back into the queue, goes on where it stopped. The same
# command again does what is left, with any array: `--array=0` is one task for all.
#SBATCH --job-name=mmsbm-study
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --output=%x-%A_%a.log
set -euo pipefail
# Slurm runs a copy of this file: the repository is where sbatch was called.
cd "${SLURM_SUBMIT_DIR:?run this with sbatch}"
# Numbers of an array may begin anywhere, with no gaps.
exec bash launch/study.sh \
  --task="$((SLURM_ARRAY_TASK_ID - ${SLURM_ARRAY_TASK_MIN:-0}))" \
  --num_tasks="$SLURM_ARRAY_TASK_COUNT" "$@"
