# Two commands from a bare clone: make demo, make test. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(wildcard csrc/*.* csrc/bind/*) CMakeLists.txt pyproject.toml constraints.txt
# An editable install knows the modules by name, so it is renewed when one appears or goes.
MODULES := $(sort $(shell find src -name '*.py'))
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# An activated environment or a stray path must not change what is tested.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

.DEFAULT_GOAL := help
.PHONY: FORCE help setup demo test format lint types layers native unit bench sanitize clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

.build/modules.txt: FORCE
	@mkdir -p .build
	@echo '$(MODULES)' | cmp -s - $@ || echo '$(MODULES)' > $@

$(VENV)/.installed: $(NATIVE) .build/modules.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "barrow needs Python 3.11 or newer; $$($(PYTHON) --version) is too old: make PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "cannot create $(VENV): install your system's venv package (Debian: apt-get install python3-venv python3-dev)"; exit 1; }
	$(BIN)/pip install --quiet torch==2.13.0 numpy cmake ninja nanobind scikit-build-core
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[dev]'
	@touch $@

setup: $(VENV)/.installed ## create .venv, build the C++ core, install pinned dependencies

demo: setup ## the main job on real input: one table, one picture (demo.png)
	$(BIN)/barrow demo --output demo.png

test: setup lint types layers native unit ## everything that CI checks
	$(BIN)/barrow demo --quick --output .build/demo.png
	@echo "make test: all green"

format: setup ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

layers: setup
	$(BIN)/lint-imports

# The same drivers as `sanitize`, at full speed: they reach what Python cannot, such as every instruction-set level.
DRIVERS := $(notdir $(basename $(wildcard tests/native/*.cpp)))
native: $(DRIVERS:%=.build/native/%)
	@for driver in $^; do $$driver || exit 1; done

.build/native/%: tests/native/%.cpp $(wildcard tests/native/*.hpp) $(wildcard csrc/*.*)
	@mkdir -p $(@D)
	$(CXX) -std=c++20 -O2 -fno-math-errno -Wall -Wextra -pthread -Icsrc $< -o $@

# Two workers with one thread each: on two cores more only wait for one another.
unit: setup ## unit tests, laws, doctests, README
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

bench: setup ## benchmarks against peers; appends to benchmarks/results.csv
	$(BIN)/pip install --quiet POT==0.9.7.post1 geomloss==0.3.1 pykeops==2.3 ott-jax==0.6.0 jax==0.10.2 jaxlib==0.10.2 \
	    deel-torchlip==1.0.5 orthogonium==0.0.4
	$(BIN)/python -m benchmarks

sanitize: $(DRIVERS:%=.build/sanitized/%) ## the C++ core under AddressSanitizer and UndefinedBehaviorSanitizer
	@for driver in $^; do $$driver || exit 1; done

.build/sanitized/%: tests/native/%.cpp $(wildcard tests/native/*.hpp) $(wildcard csrc/*.*)
	@mkdir -p $(@D)
	$(CXX) -std=c++20 -O1 -g -Wall -Wextra -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all -pthread \
	    -Icsrc $< -o $@

clean: ## remove what make built
	rm -rf $(VENV) .build build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
