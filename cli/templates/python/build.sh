#!/bin/sh
# Makes dist/{{name}}.wasm with a componentize-py of its own, in .venv.
set -eu
if [ ! -x .venv/bin/componentize-py ]; then
    python3 -m venv .venv
    .venv/bin/pip install --quiet componentize-py==0.25.1
fi
mkdir -p dist
.venv/bin/componentize-py -q -d wit -w function componentize -p src app -o dist/{{name}}.wasm
