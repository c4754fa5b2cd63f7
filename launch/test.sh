#!/usr/bin/env bash
# Style checks, then the tests, in an environment of its own (see environment.sh):
#   bash launch/test.sh              everything
#   bash launch/test.sh -m slow      the slow ones (see CONTRIBUTING.md)
#   bash launch/test.sh tests/data   some; arguments go to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
prepare_environment requirements.txt requirements-test.txt
"$python" -m ruff check .
"$python" -m ruff format --check .
# Most of the time goes to compilation, which keeps one core busy: two processes.
# A module stays in one of them, for its fixtures.
exec "$python" -m pytest -n 2 --dist=loadscope "$@"
