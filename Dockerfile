# syntax=docker/dockerfile:1
# docker build -t pilothouse:0.1.0 .
# docker build -t pilothouse-proxy:0.1.0 --target proxy .
# docker build -t pilothouse-bookinfo:0.1.0 --target bookinfo .
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches keep downloaded and built dependencies from one build to the next, whatever changed.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p pilothouse -p pilothouse-bookinfo --bins \
    && install -D -t /out target/release/pilothouse target/release/bookinfo

# The data plane's image: the agent, its Envoy, and what leads a pod's traffic there. As 1337, whose own
# traffic is not captured; the init container that sets up the capture is the same image as root.
FROM envoyproxy/envoy:distroless-v1.40.0 AS envoy
FROM debian:bookworm-slim AS proxy
RUN apt-get update \
    && apt-get install -y --no-install-recommends iptables=1.8.9-* \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1337 istio-proxy \
    && useradd --uid 1337 --gid 1337 --no-create-home --shell /usr/sbin/nologin istio-proxy \
    && install -d -o 1337 -g 1337 /etc/istio/proxy
COPY --from=envoy /usr/local/bin/envoy /usr/local/bin/envoy
COPY --from=build /out/pilothouse /usr/local/bin/pilothouse
USER 1337:1337
EXPOSE 15001 15006 15020 15021 15090
ENTRYPOINT ["/usr/local/bin/pilothouse"]
CMD ["agent"]

# The binary alone, for a release: docker build --target binary --output out .
FROM scratch AS binary
COPY --from=build /out/pilothouse /pilothouse

FROM gcr.io/distroless/cc-debian12:nonroot AS bookinfo
COPY --from=build /out/bookinfo /usr/local/bin/bookinfo
USER 65532:65532
EXPOSE 9080
ENTRYPOINT ["/usr/local/bin/bookinfo"]

FROM gcr.io/distroless/cc-debian12:nonroot AS pilothouse
COPY --from=build /out/pilothouse /usr/local/bin/pilothouse
USER 65532:65532
EXPOSE 15010 15014
ENTRYPOINT ["/usr/local/bin/pilothouse"]
CMD ["serve", "--source=kube"]
