# Lunasa: the things one does with a checkout. The work is done by the scripts named here.
LAB   := mpi-tests/lab
RANKS ?= 4
MPICC ?= $(shell $(LAB)/open-mpicc)
export MPICC
export CARGO_TARGET_DIR := $(CURDIR)/target

.PHONY: help deps demo test check bench docs clean

help:
	@echo 'make deps                  install what is missing (Debian, Ubuntu), or say what to install'
	@echo 'make demo RANKS=4 ARGS=..  build Lunasa and run the heat equation on RANKS ranks'
	@echo 'make test                  everything: lints, unit tests, ranks on one and several hosts, Slurm, both MPIs'
	@echo 'make check                 quick: format, lints, unit tests'
	@echo 'make bench BENCH=NAME      one benchmark, or all of them; tables, and target/bench/NAME.json'
	@echo 'make docs                  the API documentation, and every relative link in the *.md files'
	@echo 'make clean                 remove target/ and what the demo wrote'

deps:
	@$(LAB)/deps

demo:
	@$(LAB)/deps build
	cargo build --release --locked
	$(LAB)/mpirun -n $(RANKS) target/release/lunasa demo $(ARGS)

test:
	@$(LAB)/test-all

check:
	@$(LAB)/deps build
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo test --workspace --exclude lunasa-models --lib --bins --locked
	cargo test --workspace --doc --locked

bench:
	@$(LAB)/deps bench
	cargo build --release --locked -p lunasa-benches --features snmalloc
	benches/run $(BENCH)

docs:
	@$(LAB)/deps build
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked
	@$(LAB)/check-links

clean:
	cargo clean
	rm -rf demo-out lunasa-demo-*.out
