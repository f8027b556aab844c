# Needs only make and a python3 (>= 3.11, with venv). Every target sets itself up.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints/cpu.txt
# auto: the CPU build unless an NVIDIA driver answers. Or TORCH=cpu, or TORCH=default.
TORCH ?= auto
# PyTorch's own CPU wheel index (see its installation page); skipped when out of reach.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
DEMO ?= demo-output
# The stamp carries the checkout's path, so a moved or copied .venv is rebuilt.
READY := $(VENV)/ready-$(shell pwd | cksum | cut -d' ' -f1)
.PHONY: demo test test-all check brainmarks links constraints clean

demo: $(READY)
	$(VENV)/bin/bjepa-demo $(DEMO) --overwrite
test: $(READY)
	$(VENV)/bin/pytest -m "not slow and not network" --cov=bjepa --cov-report=term --cov-fail-under=85
test-all: $(READY)
	$(VENV)/bin/pytest -m "not network"
check: $(READY)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
brainmarks:  # The public suite's own smoke test on our plugin, in an environment of its own (its pins differ).
	$(PYTHON) -m venv --clear .venv-brainmarks
	.venv-brainmarks/bin/python -m pip install --quiet --constraint $(CONSTRAINTS) . pytest pycortex templateflow
	.venv-brainmarks/bin/python -m pip install --quiet --no-deps brainmarks==0.1.1
	.venv-brainmarks/bin/python -m pytest -q tests/evaluation/test_brainmarks_plugin.py
links:  # Puts back links which an archive tool or a Windows checkout turned into files.
	@for p in preproc gradients model cli; do test -f src/bjepa/$$p/__init__.py || \
	  { rm -f src/bjepa/$$p && ln -s ../../$$p src/bjepa/$$p && rm -rf .mypy_cache; } || exit 1; done
$(READY): pyproject.toml $(CONSTRAINTS) | links
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear $(VENV)
	@index=; want=$(TORCH); \
	if [ $$want = auto ]; then if nvidia-smi >/dev/null 2>&1; then want=default; else want=cpu; fi; fi; \
	if [ $$want = cpu ] && $(VENV)/bin/python -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=10)' \
	  "$(TORCH_CPU_INDEX)/torch/" 2>/dev/null; then index="--extra-index-url $(TORCH_CPU_INDEX)"; fi; \
	echo "Installing PyTorch ($$want build) $$index; this can take minutes."; \
	$(VENV)/bin/python -m pip install --quiet --constraint $(CONSTRAINTS) $$index torch
	$(VENV)/bin/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	@# Its pins exclude our torch, so without its dependencies; one test is skipped where it cannot be had.
	-@$(VENV)/bin/python -m pip install --quiet --retries 1 --no-deps brainmarks==0.1.1
	@touch $@
constraints:  # Maintainers only; needs uv.
	uv pip compile --universal --python-version 3.11 --extra dev --no-annotate --no-header --upgrade \
	  --constraint constraints/torch.in --output-file constraints/cpu.txt pyproject.toml
clean:
	rm -rf $(VENV) .venv-brainmarks $(DEMO) dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage
