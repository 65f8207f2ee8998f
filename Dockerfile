# CPU by default. Two arguments choose what is built:
#   --build-arg TORCH_INDEX=URL   package index to take PyTorch from. The default index has, for Linux on x86, the build with
#                                 CUDA, which is gigabytes larger; PyTorch's installation page names the index for CPUs.
#   --build-arg DEVICE=cuda       compute on a GPU; run it with `--gpus all`.
# Keep the version of torch as in the Makefile.
FROM python:3.12-slim AS build
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/streambed
ENV PATH=/opt/streambed/bin:$PATH
# Torch first and alone: a layer of its own, which a change of the source leaves as it is.
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH"
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install .

FROM python:3.12-slim
ARG DEVICE=cpu
COPY --from=build /opt/streambed /opt/streambed
# Models of the hub are kept in /models, and local ones can be mounted there; /journal is a place for --journal.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp streambed \
    && mkdir /models /journal && chown streambed:streambed /models /journal
ENV PATH=/opt/streambed/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HOME=/models STREAMBED_DEVICE=$DEVICE
USER 10001:10001
VOLUME ["/models", "/journal"]
EXPOSE 30000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=6s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:30000/readyz', timeout=5)"]
# Give STREAMBED_API_KEY, or take the key that it makes and prints. Other settings: variables, or flags behind the image.
ENTRYPOINT ["streambed", "serve", "--host", "0.0.0.0"]
