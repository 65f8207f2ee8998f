# Two images: the server, which is what `docker build .` makes, and with `--target client` the command line and the Python
# client, which have no PyTorch. Arguments choose what is built:
#   --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu
#                                 package index to take PyTorch from, here PyTorch's own of the build for CPUs: the server's
#                                 image then has 1.2 GB. The default index has, for Linux on x86, the build with CUDA, which
#                                 adds 4 GB.
#   --build-arg DEVICE=cuda       compute on a GPU; run it with `--gpus all`.
#   --build-arg BASE=IMAGE        what both stages stand on: glibc, a `python` from 3.11 on with venv, sh, useradd.
#   --secret id=pip,src=FILE      a pip.conf for the build alone, such as your own index; nothing of it stays in the image.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/streambed
ENV PATH=/opt/streambed/bin:$PATH
WORKDIR /build

FROM build AS build-client
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src src
RUN --mount=type=secret,id=pip,target=/etc/pip.conf pip install --constraint constraints.txt .

FROM build AS build-server
ARG TORCH_INDEX=
COPY constraints.txt ./
# Torch first and alone: a layer of its own, which a change of the source leaves as it is.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(while read -r line; do case $line in torch==*) echo "$line" ;; esac; done < constraints.txt)"
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN --mount=type=secret,id=pip,target=/etc/pip.conf pip install --constraint constraints.txt '.[server]'
# Kernels, one library for each kind of processor; the compiler stays behind.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf pip install --constraint constraints.txt --target /zig ziglang==0.17.1 && \
    PYTHONPATH=/zig python -m streambed.model.cpu.native.build /opt/streambed/share/streambed/native

FROM ${BASE} AS run
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp streambed
ENV PATH=/opt/streambed/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
STOPSIGNAL SIGTERM

FROM run AS client
COPY --from=build-client /opt/streambed /opt/streambed
ENTRYPOINT ["streambed"]
CMD ["--help"]

FROM run AS server
ARG DEVICE=cpu
# Models of the hub are kept in /models, and local ones can be mounted there; /journal is a place for --journal.
USER root
RUN mkdir /models /journal && chown streambed:streambed /models /journal
USER 10001:10001
COPY --from=build-server /opt/streambed /opt/streambed
ENV HF_HOME=/models STREAMBED_DEVICE=$DEVICE
VOLUME ["/models", "/journal"]
EXPOSE 30000
HEALTHCHECK --interval=30s --timeout=6s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:30000/readyz', timeout=5)"]
# Give STREAMBED_API_KEY, or take the key that it makes and prints. Other settings: variables, or flags behind the image.
ENTRYPOINT ["streambed", "serve", "--host", "0.0.0.0"]
