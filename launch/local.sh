#!/usr/bin/env bash
# The program on this machine, in an environment of its own (see environment.sh):
#   bash launch/local.sh --config=configs/digits.py --workdir=runs/digits
# Relative paths begin at the root of the repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
prepare_environment requirements.txt
exec "$python" -m mmsbm.main "$@"
