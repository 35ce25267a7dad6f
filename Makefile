# make install | demo | test | bench | lint | sanitize | aot | gpu
#
# Everything happens in .venv, with the versions of constraints.txt. `make test` builds the sdist, the wheel from the sdist, and runs the
# whole suite against that wheel in an empty folder: what is tested is what users install. For one test in the source tree:
#   .venv/bin/pytest tests/native/test_native_dpc_knn.py
# Torch is installed first and alone; to take another build of it: make install TORCH_SPEC="torch==2.13.0 --index-url <index>"
PYTHON ?= python3
TORCH_SPEC ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip

BUILD_FILES := pyproject.toml setup.py constraints.txt CMakeLists.txt $(shell find csrc -type f)
PACKAGE_FILES := $(BUILD_FILES) MANIFEST.in $(shell find dynfocus dynfocus_ops -type f -not -path '*/__pycache__/*' -not -name '*.so' \
    -not -path 'dynfocus_ops/lib/*')

# Two test processes with default threads slow each other down many times.
export OMP_WAIT_POLICY := PASSIVE
# A crash says in which line, also after the last test, while Python takes down what the tests have loaded.
export PYTHONFAULTHANDLER := 1

.PHONY: install demo test lint bench sanitize aot gpu clean
.DELETE_ON_ERROR:

install: $(VENV)/installed

$(VENV)/torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "make: $(PYTHON) is older than Python 3.11; choose one with make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "make: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet $(TORCH_SPEC)
	@touch $@

$(VENV)/installed: $(VENV)/torch $(BUILD_FILES)
	$(PIP) install --quiet -c constraints.txt setuptools wheel cmake ninja pybind11
	$(PIP) install --quiet --no-build-isolation -c constraints.txt -e '.[train]'
	$(BIN)/python -m dynfocus_ops
	@touch $@

$(VENV)/test-tools: $(VENV)/installed
	$(PIP) install --quiet --no-build-isolation -c constraints.txt \
	    bitsandbytes build hypothesis mypy pytest pytest-benchmark pytest-timeout ruff triton
	@touch $@

$(VENV)/bench-tools: $(VENV)/test-tools
	$(PIP) install --quiet --no-build-isolation -c constraints.txt faiss-cpu pykeops scikit-learn
	@touch $@

demo: install
	$(BIN)/dynfocus demo

lint: $(VENV)/test-tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy

# A second environment with the wheel alone in it. Its .pth makes .venv's packages visible, but not .venv's editable install of the
# source tree: a path named in a .pth has its own .pth files left unread.
build/wheel/installed: $(VENV)/test-tools $(PACKAGE_FILES)
	rm -rf build/wheel build/dist
	mkdir -p build
	$(BIN)/python -m build --no-isolation --outdir build/dist . > build/build.log 2>&1 || { tail -n 40 build/build.log; exit 1; }
	$(BIN)/python -m venv --without-pip build/wheel
	$(PIP) --python build/wheel/bin/python install --quiet --no-deps build/dist/*.whl
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	    > $$(build/wheel/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/outer.pth
	@touch $@

test: lint build/wheel/installed
	rm -rf build/empty
	mkdir build/empty
	cp -r tests benchmarks pyproject.toml build/empty
	cd build/empty && PATH="$(CURDIR)/build/wheel/bin:$(CURDIR)/$(BIN):$$PATH" DYNFOCUS_SOURCE="$(CURDIR)" \
	    sh -c 'python -P -m pytest $(PYTEST_ARGS) && TRITON_INTERPRET=1 python -P -m pytest tests/ops tests/triton $(PYTEST_ARGS)'

# FULL=1 for every shape. Threads wait as they do for users, and torch takes huge pages: see benchmarks/METHOD.md.
bench: $(VENV)/bench-tools
	@mkdir -p build/bench
	@rm -f build/bench/run.json
	env -u OMP_WAIT_POLICY THP_MEM_ALLOC_ENABLE=1 $(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-only \
	    --benchmark-quiet --benchmark-json=build/bench/run.json --timeout=0 -W ignore::DeprecationWarning \
	    --depth=$(if $(FULL),full,quick) $(PYTEST_ARGS) || refused=1; \
	$(BIN)/python -m benchmarks.report build/bench/run.json --out build/bench && exit $$refused

# The tests of the ops and of the native kernels, against a library built with the address and undefined-behaviour sanitizers. Torch
# itself leaks and is not instrumented: leaks are not looked for, nor what torch passes between its own libraries.
sanitize: $(VENV)/test-tools
	rm -rf build/sanitize
	mkdir -p build/sanitize
	cp -r dynfocus_ops tests pyproject.toml build/sanitize
	rm -f build/sanitize/dynfocus_ops/_C.*.so
	$(BIN)/cmake -S . -B build/sanitize/cmake -G Ninja -DCMAKE_MAKE_PROGRAM="$(CURDIR)/$(BIN)/ninja" -DCMAKE_BUILD_TYPE=Release \
	    -DDYNFOCUS_SANITIZE=address,undefined -DDYNFOCUS_PYTHON_MODULE=OFF \
	    -DTORCH_ROOT="$$($(BIN)/python -c 'import torch; print(torch.__path__[0])')" > build/sanitize/cmake.log
	$(BIN)/cmake --build build/sanitize/cmake --target dynfocus_native
	mkdir -p build/sanitize/dynfocus_ops/lib
	cp build/sanitize/cmake/libdynfocus_native.so build/sanitize/dynfocus_ops/lib
	cd build/sanitize && ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH="$(CURDIR)/build/sanitize" \
	    LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libstdc++.so)" \
	    "$(CURDIR)/$(BIN)/python" -P -m pytest tests/native tests/ops --capture=sys -k "not memory and not library" $(PYTEST_ARGS)

# Compiles every GPU kernel that ships for sm_80 and sm_90, with two Tritons and nvcc, and holds it to benchmarks/aot/budget.json; no GPU
# is needed. UPDATE=1 makes what was compiled the budget and writes docs/gpu-kernels.md. CUDA=no leaves csrc/cuda out, where there is no nvcc.
NVCC ?= $(or $(CUDACXX),$(shell command -v nvcc))
OLDEST_TRITON := 3.6.0

build/triton-%: | $(VENV)/test-tools
	rm -rf $@.part
	$(PIP) install --quiet --no-deps --target $@.part triton==$*
	mv $@.part $@

.PHONY: build/aot/cuda
build/aot/cuda: | $(VENV)/test-tools
	@mkdir -p build/aot
	@test -n "$(NVCC)" || { echo "make aot: no nvcc found (CUDACXX, or on the path); CUDA=no leaves csrc/cuda out" >&2; exit 1; }
	$(BIN)/cmake -S . -B $@ -G Ninja -DCMAKE_MAKE_PROGRAM="$(CURDIR)/$(BIN)/ninja" -DCMAKE_BUILD_TYPE=Release -DDYNFOCUS_CUDA=ON \
	    -DCMAKE_CUDA_COMPILER="$(NVCC)" -DDYNFOCUS_PYTHON_MODULE=OFF \
	    -DTORCH_ROOT="$$($(BIN)/python -c 'import torch; print(torch.__path__[0])')" > build/aot/cmake.log
	$(BIN)/cmake --build $@ --target cuda_kernels

aot: build/triton-$(OLDEST_TRITON) $(if $(filter no,$(CUDA)),,build/aot/cuda)
	OMP_NUM_THREADS=1 TRITON_CACHE_DIR="$(CURDIR)/build/aot/cache" $(BIN)/python -m benchmarks.aot build/triton-$(OLDEST_TRITON) \
	    $(if $(filter no,$(CUDA)),,--cuda build/aot/cuda) $(if $(UPDATE),--update --page docs/gpu-kernels.md) $(AOT_ARGS)

# Builds, checks and measures on a GPU, with the Python that is there (PYTHON=...), no .venv and no network; nine minutes at most.
# WHEELS=DIR: packages carried along. DRY_RUN=1 rehearses all of it on the CPU, on tiny shapes.
gpu: $(if $(DRY_RUN),$(VENV)/test-tools)
	$(if $(DRY_RUN),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu --budget $(or $(BUDGET),540) --out $(or $(OUT),build/gpu) \
	    $(if $(DRY_RUN),--dry-run) $(if $(WHEELS),--wheels $(WHEELS)) $(if $(ONLY),--only $(ONLY))

clean:
	rm -rf $(VENV) build dist *.egg-info dynfocus_ops/lib dynfocus_ops/_C.*.so
