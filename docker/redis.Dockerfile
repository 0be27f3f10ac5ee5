# Redis from Debian's packages, for machines that cannot pull an image of Redis or Valkey:
#     docker build --file docker/redis.Dockerfile --tag arlarena/redis .
#     ARLARENA_REDIS_IMAGE=arlarena/redis:0.1.0 docker compose up
ARG BASE_IMAGE=python:3.11-slim
FROM ${BASE_IMAGE}
# The version is not pinned: when Debian updates a package, the old version disappears from its archive.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends redis-server \
 && rm -rf /var/lib/apt/lists/* \
 && install --directory --owner 999 --group 999 /data
# REVISION changes with each commit, and Docker then repeats all steps below it. So all slow steps are above it.
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Redis for ARLArena" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# User 999, as in the official images of Redis and Valkey: a volume of one image can be used with the others.
USER 999:999
WORKDIR /data
EXPOSE 6379
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=6 \
    CMD ["sh", "-c", "redis-cli --user probe --pass probe --no-auth-warning ping | grep -q PONG"]
CMD ["redis-server", "/etc/arlarena/redis.conf"]
