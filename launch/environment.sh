# Sourced by the other scripts. `prepare_environment FILE...` makes or reuses a
# virtual environment in which the packages of the requirement files are installed,
# and sets `python` to its interpreter.
#
#   MMSBM_VENV: its folder; .venv in the repository by default.
#   PYTHON: the interpreter it is made with; python3 by default. To change it later,
#     delete the folder.

prepare_environment() {
  local venv=${MMSBM_VENV:-.venv} file stale=''
  python=$venv/bin/python
  for file in "$@"; do
    [[ -f $venv/installed-$file && $(<"$venv/installed-$file") == "$(<"$file")" ]] ||
      stale=yes
  done
  if [[ -z $stale ]] && "$python" -c ''; then
    return
  fi
  local base=${PYTHON:-python3}
  if "$python" -c '' 2>/dev/null; then
    base=$python
  fi
  if ! "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "error: $base is not Python 3.11 or newer: set PYTHON, e.g. PYTHON=python3.12" >&2
    exit 2
  fi
  echo "Installing $* into $venv (once, about a minute) ..." >&2
  if [[ $base != "$python" ]]; then
    "$base" -m venv --clear "$venv"
  else
    # Complete one that was interrupted before it had pip.
    "$python" -m ensurepip >/dev/null 2>&1 || true
  fi
  "$python" -m pip install --quiet --disable-pip-version-check "${@/#/--requirement=}"
  # Last: without these files, an installation that was interrupted starts again.
  for file in "$@"; do
    cp "$file" "$venv/installed-$file"
  done
}
