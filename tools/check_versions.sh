#!/usr/bin/env bash
# Runs tests on the oldest supported and on the newest libraries, with each Python.
#
#   tools/check_versions.sh                      # the quick tests
#   tools/check_versions.sh tests/losses         # the tests of these paths
#
# The oldest are the lower bounds of setup.cfg, the newest what the package index has.
# Needs uv, and python3.11, python3.12 and python3.13 on PATH (PYTHONS names others,
# WANTED=oldest or newest one of both);
# one that is missing or does not run is left out and said. Environments and logs lie
# in build/versions (VERSIONS_DIR names another folder). Exits with 1 where any combination fails.
set -uo pipefail
cd "$(dirname "$0")/.."

folder=${VERSIONS_DIR:-build/versions}
pythons=${PYTHONS:-"python3.11 python3.12 python3.13"}
mkdir -p "$folder"
table="$folder/table.txt"
libraries=(jax flax optax orbax-checkpoint chex numpy tensorflow-cpu)
row="%-11s %-7s %-8s %-8s %-8s %-8s %-8s %-8s %-8s %s\n"
# shellcheck disable=SC2059
printf "$row" python wanted jax flax optax orbax chex numpy tf result | tee "$table"
failed=0

# install PYTHON RESOLUTION: an environment of it, in $environment.
# Wheels only, so that no old library is compiled; two pure Python ones have no wheel.
install() {
  [ "$environment/.installed" -nt setup.cfg ] && return
  uv venv --quiet --clear --python "$(command -v "$1")" "$environment" &&
    "$environment/bin/python" -c '
import configparser
settings = configparser.ConfigParser()
settings.read("setup.cfg")
print(settings["options"]["install_requires"])
print(settings["options.extras_require"]["test"])
' >"$environment/requirements.txt" &&
    uv pip install --quiet --python "$environment/bin/python" --resolution "$2" \
      --only-binary :all: --no-binary promise --no-binary jsonpath-rw \
      -r "$environment/requirements.txt" &&
    touch "$environment/.installed"
}

# version LIBRARY: what is installed of it, or "-".
version() {
  "$environment/bin/python" - "$1" <<'PYTHON'
import importlib.metadata
import sys
try:
  print(importlib.metadata.version(sys.argv[1]))
except importlib.metadata.PackageNotFoundError:
  print("-")
PYTHON
}

for python in $pythons; do
  for wanted in ${WANTED:-oldest newest}; do
    environment="$folder/$python-$wanted"
    log="$environment.log"
    resolution=highest
    [ "$wanted" = oldest ] && resolution=lowest-direct
    versions=(- - - - - - -)
    if ! "$python" -c "" >/dev/null 2>&1; then
      result="left out: no $python on PATH that runs"
    elif ! install "$python" "$resolution" >"$log" 2>&1; then
      result="FAILED to install, see $log"
      failed=1
    else
      versions=()
      for library in "${libraries[@]}"; do versions+=("$(version "$library")"); done
      if "$environment/bin/python" -m pytest "$@" >>"$log" 2>&1; then
        result=$(tail -1 "$log")
      else
        result="FAILED: $(tail -1 "$log"), see $log"
        failed=1
      fi
    fi
    # shellcheck disable=SC2059
    printf "$row" "$python" "$wanted" "${versions[@]}" "$result" | tee -a "$table"
  done
done
exit $failed
