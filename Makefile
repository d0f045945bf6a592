# A menu. The work is done by Rust programs and a few short scripts.
BOARD ?= x86_64-generic
# Of `make fuzz`: one target or all, and seconds for each.
TARGET ?= all
TIME ?= 600
# Of `make bench`: sections or options, see `lifeboat-bench --help`.
SECTIONS ?=

export CARGO_TERM_PROGRESS_WHEN ?= never

.PHONY: help demo test test-quick image reproduce check bench bootstrap fuzz

help:
	@echo 'make demo               from panic to opened dump, step by step, in QEMU'
	@echo 'make test               all tests, units to QEMU (40 to 55 minutes on 2 cores, of which 10 to build)'
	@echo 'make test-quick         the short tests: no QEMU, no long series of faults (under 2 minutes once built)'
	@echo 'make image BOARD=NAME   the crash image of a board, in out/NAME (boards: board/)'
	@echo 'make reproduce          the image again from a fresh clone, compared byte by byte'
	@echo 'make check              formatting, lints, licences and sources, scripts'
	@echo 'make bench              capture, filter, export, cores beside peers (an hour with rests; the first run'
	@echo '                        makes the inputs: 10 more; SECTIONS=--quick: one round of the first sections)'
	@echo 'make fuzz TIME=600      every reader of hostile bytes, seconds each (TARGET=NAME: one)'
	@echo
	@echo 'Debian 12; what is needed is installed by scripts/bootstrap.sh, as root.'

bootstrap:
	@scripts/bootstrap.sh

# Programs are named, not packages: so all are built with the features of the whole
# workspace, and nothing is compiled a second time for the tests.
image: bootstrap
	cargo run -q --bin lifeboat-builder -- image --board $(BOARD)

reproduce: image
	scripts/reproduce.sh $(BOARD)

demo: bootstrap
	cargo run -q --bin lifeboat-demo

test: image
	cargo nextest run --workspace --no-fail-fast

# Faults at every place, and models of what volumes do: minutes of their own.
LONG := binary(powercut) or binary(bitflip) or binary(tamper) or binary(ring) or binary(exports_same)
test-quick: bootstrap
	cargo nextest run --workspace \
		-E 'not (kind(test) and package(lifeboat-qemu)) and not ($(LONG))'

check: bootstrap
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny
	cargo deny check licenses bans sources
	shellcheck scripts/*.sh .ci/run

bench: image
	cargo run --release -q -p lifeboat-bench -- $(SECTIONS)

fuzz: bootstrap
	scripts/fuzz.sh $(TARGET) $(TIME)
