# The environment server, with one environment:
#     docker build --file docker/environment.Dockerfile --build-arg ENVIRONMENT=sokoban --tag arlarena/environment-sokoban .
#
# ENVIRONMENT: sokoban, alfworld, webshop, tir_math or guess. The image contains only the dependencies of this
# environment.
ARG BASE_IMAGE=python:3.11-slim

# This stage builds the wheels of this repository. `--build-context wheels=FOLDER` replaces it by a folder of wheels.
FROM ${BASE_IMAGE} AS wheels
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt hatchling \
 && pip wheel --no-deps --no-build-isolation --wheel-dir / ./proto ./client ./sandbox ./environments/* ./services/*

FROM ${BASE_IMAGE} AS packages
ARG ENVIRONMENT=sokoban
RUN python -m venv --without-pip /opt/arlarena
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    pip --python /opt/arlarena/bin/python install --constraint /constraints.txt --find-links /wheels \
        arlarena-env-server "arlarena-${ENVIRONMENT}" \
 && if [ "${ENVIRONMENT}" = tir_math ]; then \
      pip --python /opt/arlarena/bin/python install --no-deps --constraint /constraints.txt reasoning-gym; \
      find /opt/arlarena/lib/python3*/site-packages/sympy -type d -name tests -prune -exec rm -rf {} +; \
    fi

FROM ${BASE_IMAGE}
ARG ENVIRONMENT=sokoban
# TIR Math's sandbox uses libseccomp to install a seccomp filter. The version of libseccomp is not pinned: when Debian
# updates a package, the old version disappears from its archive.
# hadolint ignore=DL3008
RUN if [ "${ENVIRONMENT}" = tir_math ]; then \
      apt-get update && apt-get install --yes --no-install-recommends libseccomp2 && rm -rf /var/lib/apt/lists/*; \
    fi
COPY --from=packages /opt/arlarena /opt/arlarena
COPY docker/healthcheck.py /opt/arlarena/healthcheck.py
ENV PATH=/opt/arlarena/bin:${PATH} \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1 \
    OPENBLAS_NUM_THREADS=1 \
    ARLARENA_ENVIRONMENT_NAME=${ENVIRONMENT}
# REVISION changes with each commit, and Docker then repeats all steps below it. So all slow steps are above it.
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ARLArena environment server: ${ENVIRONMENT}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=6 \
    CMD ["python", "-IS", "/opt/arlarena/healthcheck.py", "--url", "http://127.0.0.1:8000/health"]
ENTRYPOINT ["python", "-m", "arlarena.env_server"]
CMD ["--host", "0.0.0.0", "--port", "8000"]
