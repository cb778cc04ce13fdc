# syntax=docker/dockerfile:1
# Cirque as one static file in an empty image: no shell, no package manager, no root.
#   docker build -t cirque .
#   docker run --rm -p 8000:8000 -e OPENROUTER_API_KEY -e API_KEY cirque

# The tag is the channel of rust-toolchain.toml; `.ci/check-deploy` compares the two.
FROM rust:1.95.0-bookworm AS build

# The compiler of musl, and cmake, for the few C and assembler sources in the tree.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends cmake musl-tools ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && rustup target add "$(uname -m)-unknown-linux-musl"

WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src ./src
# Shown by `cirque_build_info`; give it with --build-arg REVISION=$(git rev-parse --short HEAD).
ARG REVISION=unknown
# One shell for the build and the copy: what a cache mount holds is gone after it.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    target="$(uname -m)-unknown-linux-musl" \
 && CIRQUE_REVISION="$REVISION" CC=musl-gcc cargo build --release --locked --bin cirque --target "$target" \
 && install -D -m 0755 "target/$target/release/cirque" /image/cirque

# What an empty image lacks: roots of trust, a user, a folder to write to.
RUN install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt \
 && echo 'cirque:x:65532:65532:cirque:/:/sbin/nologin' > /image/etc/passwd \
 && echo 'cirque:x:65532:' > /image/etc/group \
 && install -d -m 0755 /image/conf \
 && install -d -m 0700 -o 65532 -g 65532 /image/data

FROM scratch
COPY --from=build /image /
USER 65532:65532
# `./data`, `./conf/gateway.yaml` and `./.env` of the defaults are /data, /conf/gateway.yaml and /.env.
WORKDIR /
VOLUME ["/data"]
EXPOSE 8000
# Asks the gateway's own /health, on PROXY_PORT, else PORT, else 8000.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["/cirque", "health"]
# SIGTERM drains: give `docker stop` more time than `server.drain` (30 s).
STOPSIGNAL SIGTERM
ENTRYPOINT ["/cirque"]
CMD ["run"]
