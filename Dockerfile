# netdiag, one static binary and nothing else:
#
#   docker build --tag netdiag:0.1.0 .
#
# `cargo xtask image` makes the same image without an engine, and takes what it is started with from here.

FROM rust:1-bookworm AS build
WORKDIR /netdiag
COPY . .
RUN cargo xtask image

FROM scratch
COPY --from=build /netdiag/target/image/rootfs/ /
ENV PATH=/usr/bin
ENTRYPOINT ["netdiag"]
