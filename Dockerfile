# The images of comic-upscale. The batch tool, which is what a build without --target makes:
#
#   docker build --tag comic-upscale .
#   docker run --rm --gpus all -v "$PWD/pages:/input:ro" -v "$PWD/out:/output" -v "$PWD/ledger:/ledger" \
#       --user "$(id -u):$(id -g)" comic-upscale --scale 2.5
#
# The server and its worker: docker build --target server; deploy/ has the files that run it.
#
# scripts/install_image.sh installs what both images share; it is tested without Docker.
# The CUDA libraries come with PyTorch's wheels. The base image only provides access to the driver.
ARG BASE=nvidia/cuda:12.8.1-base-ubuntu24.04
FROM ${BASE} AS common

LABEL org.opencontainers.image.title="comic-upscale" \
      org.opencontainers.image.description="Upscale whole comic libraries with Real-ESRGAN" \
      org.opencontainers.image.licenses="MIT"

ENV DEBIAN_FRONTEND=noninteractive PYTHONUNBUFFERED=1

# No versions are pinned, so that the image gets security updates.
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install --yes --no-install-recommends python3 python3-venv libarchive13t64 && \
    rm -rf /var/lib/apt/lists/*

COPY pyproject.toml README.md LICENSE /build/
COPY comic_upscale /build/comic_upscale
COPY weights/*.safetensors weights/*.LICENSE /build/weights/
COPY scripts/idle_watchdog.sh scripts/install_image.sh scripts/install_packages.sh scripts/entrypoint.sh /build/scripts/

# Further models in the image, downloaded from the official releases and checked by hash, such as
# RealESRGAN_x4plus_anime_6B. The project's own are parts of the package.
ARG MODELS=
# PyTorch for the CUDA of the base image. The newest PyTorch on PyPI needs a newer driver than the base image requires,
# and would not see the GPU with an older one.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cu128
RUN PIP_NO_CACHE_DIR=1 /build/scripts/install_image.sh --source /build --prefix /opt/comic-upscale --python python3 \
        --torch-index "${TORCH_INDEX}" --models "${MODELS}" && \
    rm -rf /build

RUN useradd --uid 10001 --create-home upscaler && \
    mkdir -p /input /output /ledger && \
    chown upscaler /output /ledger && chmod 1777 /output /ledger
USER 10001
# A user of `docker run --user` has no home folder. Measured rates belong to the machine, and stay with the ledger.
# The user's own weights are mounted at /weights, so they do not hide those of the image.
ENV PATH=/opt/comic-upscale/bin:$PATH \
    COMIC_UPSCALE_WEIGHTS=/weights:/opt/comic-upscale/weights \
    COMIC_UPSCALE_LEDGER=/ledger/ledger.sqlite3 \
    XDG_STATE_HOME=/tmp/state XDG_CACHE_HOME=/tmp/cache XDG_DATA_HOME=/ledger/data

FROM common AS server
USER 0
# The bind mount is the source tree; what is written into it is thrown away.
RUN --mount=type=bind,target=/source,rw \
    /opt/comic-upscale/bin/python -m pip install --quiet --no-cache-dir '/source[server,postgres,s3,redis]' && \
    mkdir /data && chown upscaler /data
USER 10001
VOLUME ["/data"]
EXPOSE 5800 5900
HEALTHCHECK --interval=30s --timeout=10s --start-period=2m \
    CMD ["/opt/comic-upscale/bin/python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:5900/readyz', timeout=5)"]
ENTRYPOINT ["/opt/comic-upscale/bin/comic-upscale"]
CMD ["serve", "--data", "/data", "--host", "0.0.0.0"]

FROM common AS batch
VOLUME ["/input", "/output", "/ledger"]

# Healthy while the ledger is readable and its run is alive. A job of several days gives no other sign of life.
HEALTHCHECK --interval=60s --timeout=20s --start-period=10m \
    CMD ["/opt/comic-upscale/bin/entrypoint.sh", "--health"]
ENTRYPOINT ["/opt/comic-upscale/bin/entrypoint.sh"]
