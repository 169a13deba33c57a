# syntax=docker/dockerfile:1
# docker build -t pilothouse:0.1.0 .
# docker build -t pilothouse-bookinfo:0.1.0 --target bookinfo .
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches keep downloaded and built dependencies from one build to the next, whatever changed.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin pilothouse --example bookinfo \
    && install -D -t /out target/release/pilothouse target/release/examples/bookinfo

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
