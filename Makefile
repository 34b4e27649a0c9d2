# Everything runs in a virtual environment that the first command makes: .venv, with a pinned torch.
#
#   make demo    trains a classifier and a language model with nn.GRU and with gru_fused.GRU, side by side
#   make example NAME=bptt   one of examples/*.py; docs/recipes.md says what they show
#   make test    the tests
#   make fuzz    the fuzz tests at length: make fuzz N=100000
#   make bench   the benchmarks, paired with nn.GRU and with every peer that is installed; and what each option costs
#   make lint    ruff and clang-format; make format applies them
#   make gpu-check OUT=dir   on a machine with a GPU: build, tests, sanitizers, benchmarks, in 10 minutes at most
#                            (in no virtual environment and with no network: with PYTHON and what it has)
#
#   make test-peers    gets Flax (JAX is 350 MB) and the source of haste, and tests their weights too
#   make bench-peers   installs the peers: JAX, ONNX Runtime, OpenVINO
#
# Variables: PYTHON (3.10 or newer) makes the environment; TORCH is what pip installs as torch; VENV is the folder; JOBS is how many
# processes share the tests, by files.

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
N ?= 20000
JOBS ?= 2
OUT ?= benchmarks/out/gpu-check
PEERS := jax onnx onnxruntime openvino
HASTE ?= haste_pytorch==0.5.0rc0

BIN := $(VENV)/bin
SOURCES := setup.py pyproject.toml $(shell find csrc -type f)

.PHONY: demo example test test-peers fuzz bench bench-peers gpu-check lint format build clean

demo: build
	$(BIN)/python -m examples.demo $(ARGS)

example: build
	$(BIN)/python -m examples.$(NAME) $(ARGS)

test: build
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-peers: build
	$(BIN)/python -m pip install --quiet flax
	$(BIN)/python -m pip download --quiet --no-deps --no-build-isolation --no-binary :all: --dest build/haste $(HASTE)
	tar -xzf build/haste/*.tar.gz -C build/haste
	$(BIN)/python -m pytest tests/test_weights*.py $(ARGS)

fuzz: build
	GRU_FUSED_FUZZ_EXAMPLES=$(N) $(BIN)/python -m pytest tests/test_fuzz.py tests/test_options_fuzz.py $(ARGS)

bench: build
	$(BIN)/python -m benchmarks $(ARGS)
	$(BIN)/python -m benchmarks.options $(filter --quick,$(ARGS))

bench-peers: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet $(PEERS)

gpu-check:
	$(PYTHON) -m benchmarks.gpu_check $(OUT) $(ARGS)

lint: $(VENV)/.installed
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pre-commit run --all-files --show-diff-on-failure

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs $(BIN)/clang-format -i

build: $(VENV)/.built

$(VENV)/.built: $(VENV)/.installed $(SOURCES)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	touch $@

$(VENV)/.installed: requirements.txt Makefile
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "gru_fused needs Python 3.10 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

clean:
	rm -rf $(VENV) build gru_fused/*.so *.egg-info
