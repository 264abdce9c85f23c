# `make demo` and `make test` do all the set-up on a fresh machine.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FOLDERS := kernels models phantoms engine export fewshot benchmarks
TREE := $(VENV)/tree/medfocus

.PHONY: demo test test-long coverage lint format docs bench weights gpu-check gpu-smoke image clean

# A file's tests stay in one process, in which they share what is dear to make.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile \
  --no-loadscope-reorder

test: $(VENV)/package
	$(PYTEST)

# Each takes minutes: all table entries compiled, models at full size, kills, recorded accuracies.
test-long: $(VENV)/package
	$(PYTEST) -m long -o timeout=1800

coverage: $(VENV)/package
	$(PYTEST) --cov --cov-report=term --cov-report=html:out/coverage

# Phantoms with lesions that the shipped weights never saw, a head from a few of them, an engine,
# and its answers on others of them and on real DICOM files.
demo: $(VENV)/package
	rm -rf out/demo
	$(BIN)/python -m medfocus.phantoms out/demo/few-shot/train --kinds demo --per-class 16 --seed 1
	$(BIN)/python -m medfocus.phantoms out/demo/few-shot/test --kinds demo --per-class 10 --seed 3
	$(BIN)/python -m medfocus.phantoms out/demo/images --kinds demo --per-class 3 --seed 2
	$(BIN)/python -c 'from pathlib import Path; from pydicom.data import get_testdata_file as get; \
	  [Path("out/demo/images", name).write_bytes(Path(get(name, download=False)).read_bytes()) \
	   for name in ("CT_small.dcm", "MR_small.dcm")]'
	$(BIN)/medfocus-fit out/demo/few-shot --shots 16 --cache out/demo/focus -o out/demo/head.safetensors
	$(BIN)/medfocus-eval out/demo/few-shot --head out/demo/head.safetensors --cache out/demo/focus \
	  --report out/demo/report
	$(BIN)/medfocus-export --head out/demo/head.safetensors -o engines/demo --force
	$(BIN)/medfocus-classify engines/demo out/demo/images --overlays out/demo/pictures
	@echo "The engine is in engines/demo, the pictures are in out/demo/pictures."

# A tree of links for programs that read packages without importing them: those do not follow an
# editable install's mapping of folders to `medfocus.<folder>`.
.PHONY: $(TREE)
$(TREE):
	rm -rf $@ && mkdir -p $@
	ln -s $(CURDIR)/package/* $(addprefix $(CURDIR)/,$(FOLDERS)) $@

lint: $(VENV)/package $(TREE)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	MYPYPATH=$(VENV)/tree $(BIN)/mypy -p medfocus
	MYPYPATH=$(VENV)/tree $(BIN)/mypy -p tests -p tools
	PYTHONPATH=$(VENV)/tree $(BIN)/lint-imports

format: $(VENV)/package
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The site, in site/, with warnings as errors; and whether each number is that of its result file.
docs: $(VENV)/package $(TREE)
	$(BIN)/python -m tools.docs --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file tools/docs/mkdocs.yml

# Times single functions, each checked against the reference of its tests. BENCH= takes arguments of
# pytest-benchmark: --benchmark-autosave, --benchmark-compare.
bench: $(VENV)/package
	$(BIN)/python -m pytest benchmarks/suites -o python_files='bench_*.py' \
	  -o python_functions='bench_*' --benchmark-only $(BENCH)

# Trains the shipped `tiny` weights again: more than an hour on two cores.
weights: $(VENV)/package
	$(BIN)/python -m tools.pretrain segmenter -o out/weights
	$(BIN)/python -m tools.pretrain clip -o out/weights
	cp out/weights/* models/tiny/

# Where there is a GPU: what works, in two minutes; and everything tested and timed, in seven. They
# install nothing: PYTHON= names an interpreter that has medfocus (on PYTHONPATH, say), torch, triton,
# pytest, sam2, open_clip and pydicom (pytest-xdist shares the tests, if installed); without it that of
# $(VENV) is taken as it is. What is missing or broken, and a goal that is not met, is named and makes
# this fail, with everything else done. ONLY="pipeline windows" runs these parts, BUDGET= sets the seconds.
GPU_PYTHON = $(if $(filter file,$(origin PYTHON)),$(BIN)/python,$(PYTHON))
GPU_OPTIONS = $(if $(ONLY),--only $(ONLY)) $(if $(BUDGET),--budget $(BUDGET))
gpu-check gpu-smoke:
	@$(GPU_PYTHON) -c 'import medfocus.benchmarks.gpu.check' || { \
	  echo "$(GPU_PYTHON) cannot import medfocus (above: why). To install it anywhere: $(GPU_PYTHON)" \
	    "-m pip install --no-index --no-deps --no-build-isolation --target DIR . && export PYTHONPATH=DIR"; \
	  exit 2; }
	$(GPU_PYTHON) -m medfocus.benchmarks.gpu.$(subst gpu-,,$@) $(if $(filter gpu-check,$@),$(OUT)) $(GPU_OPTIONS)

# sam2 builds against the torch that is there (no build isolation), without its CUDA extension,
# which the image path does not use.
$(VENV)/dependencies: constraints.txt pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt setuptools wheel torch torchvision
	SAM2_BUILD_CUDA=0 $(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation '.[dev]'
	touch $@

# Editable: what is edited runs at once.
$(VENV)/package: $(VENV)/dependencies pyproject.toml setup.py
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	rm -rf build *.egg-info
	touch $@

# The image of Containerfile, by podman, docker or buildah: BUILDER=.
BUILDER ?= podman
image:
	$(BUILDER) build --tag medfocus --file Containerfile .

clean:
	rm -rf $(VENV) build *.egg-info engines out
