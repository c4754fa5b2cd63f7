#!/usr/bin/env bash
# A study (many runs, one table) on this machine, in an environment of its own (see
# environment.sh):
#   bash launch/study.sh --study=configs/studies/any_to_any.py --workdir=runs/studies/digits
# Relative paths begin at the root of the repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
prepare_environment requirements.txt
exec "$python" -m mmsbm.studies "$@"
