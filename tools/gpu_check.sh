#!/usr/bin/env bash
# Check and measure sr_nas on a GPU, in under 8 minutes and without a network: tools/gpu_check.sh [gpu_check.json]
#
# Runs the tests marked gpu, benchmarks, a search with and without CUDA graphs, and a training, and writes one JSON: the device,
# and of each part its exit code, its seconds and what it printed. All parts run, whichever fails; the exit code is 1 where one
# has failed. PYTHON names another interpreter than python. GPU_CHECK_DEVICE=cpu tries the script itself: the same parts, tiny and
# on the CPU.
set -uo pipefail

python=${PYTHON:-python}
device=${GPU_CHECK_DEVICE:-cuda}
result=$(realpath -m "${1:-gpu_check.json}")
cd "$(dirname "$0")/.." || exit 2

if [ -e "$result" ]; then echo "gpu_check: $result exists. Name another file, or move it away." >&2; exit 2; fi
if [ ! -w "$(dirname "$result")" ]; then echo "gpu_check: $(dirname "$result") is no folder that can be written to." >&2; exit 2; fi
about=$("$python" -c 'import json, sys, torch
if sys.argv[1] == "cuda" and not torch.cuda.is_available(): sys.exit("gpu_check: PyTorch finds no CUDA device here.")
name = torch.cuda.get_device_name() if sys.argv[1] == "cuda" else "cpu"
print(json.dumps({"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "python": sys.version.split()[0]}))' "$device") || exit 1

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

part() { # NAME MOST_SECONDS COMMAND...
  local name=$1 most=$2 start=$EPOCHREALTIME code
  shift 2
  [ "$device" = cuda ] || most=$((10 * most))
  printf '%-24s' "$name"
  timeout --kill-after=10 "$most" "$@" >"$work/$name.out" 2>"$work/$name.err" </dev/null
  code=$?
  [ $code = 0 ] || failed=1
  echo "$code $start $EPOCHREALTIME" | tr , . >"$work/$name.part"  # in some locales a second has a decimal comma
  echo "exit code $code"
}

if [ "$device" = cuda ]; then
  passes=(--device cuda --rounds 5) cases=() image=(--size 1280x720) gpu=num_gpu=1
  search=(search:epochs=10) train=()
else
  passes=(--rounds 1 --batch 1 --size 8 --nf 16) cases=(--case sac-imdn) image=(--size 32x32 --rounds 1) gpu=num_gpu=0
  search=(search:epochs=1 search:steps_per_epoch=2) train=(train:total_iter=2 val:val_freq=2)
fi
root=path:experiments_root=$work/runs

part tests 120 "$python" -m pytest -m gpu -n 4 $(grep -rl --include='*.py' 'mark\.gpu' tests)
part supernet 50 "$python" tools/benchmark.py supernet --json "${passes[@]}" "${cases[@]}"
part search-step 70 "$python" tools/benchmark.py search-step --json "${passes[@]}" --case sac-imdn
part training 40 "$python" tools/benchmark.py training --json "${passes[@]}" --case imdn
part inference 40 "$python" tools/benchmark.py inference --json --device "$device" "${image[@]}"
part search 50 "$python" tools/search.py -opt options/sac_imdn.yml --force_yml "$gpu" "$root" "${search[@]}"
part search-graph 50 "$python" tools/search.py -opt options/sac_imdn.yml --force_yml "$gpu" "$root" "${search[@]}" \
  name=sac_imdn_graph search:cuda_graph=auto
part train 50 "$python" tools/train.py -opt options/train_imdn.yml --force_yml "$gpu" "$root" "${train[@]}" \
  "network_g:genotype=$work/runs/sac_imdn"

"$python" -c 'import json, pathlib, sys
def entry(file):
    code, start, end = file.read_text().split()
    text, errors = (file.with_suffix(suffix).read_text(errors="replace") for suffix in (".out", ".err"))
    try: figures = json.loads(text[text.index("{"):])
    except ValueError: figures = text.splitlines()[-25:]
    return {"exit_code": int(code), "seconds": round(float(end) - float(start), 2), "figures": figures, "errors": errors.splitlines()[-25:] if code != "0" else []}
parts = sorted(pathlib.Path(sys.argv[2]).glob("*.part"), key=lambda file: file.read_text().split()[1])
print(json.dumps({**json.loads(sys.argv[1]), "parts": {file.stem: entry(file) for file in parts}}, indent=2))' "$about" "$work" >"$result" || failed=1
echo "written to $result"
exit $failed
