# make demo    everything set up, then the lung bundle's ensemble on the embedded example
# make test    everything set up, then the tests
# make docs    everything set up, then the documentation, in build/site
# make wheels  everything set up, then the distributions of the package and of its bundles, in dist
# make label-server STUDIES=folder    MONAI Label with the bundles on a folder of images, in its own .venv-label
#
# Each makes a virtual environment of its own (.venv) on the first call and installs nothing on the second.
# Variables:
#   PYTHON            interpreter that the environment is made from, 3.11 or newer for the tested set (default python3)
#   TORCH_INDEX_URL   package index that torch alone is taken from, e.g. the one of PyTorch's own that holds the build for
#                     your CUDA version. By default PyTorch's CPU builds on Linux without an NVIDIA driver, unless pip is
#                     configured with an index or wheels of its own, and pip's default elsewhere
#   MEDSEGLATDIFF_DATA  folder of the real data's archives; the tests that need it skip where it is absent
#   STUDIES, LABEL_ARGS  of label-server: folder of the images, further arguments, e.g. LABEL_ARGS="--port 8001"
#   WORKERS           processes that share the tests, of one thread each (default: a core each, four at most; 0: none)
#   TEST_ARGS         further arguments of pytest, e.g. TEST_ARGS="tests/networks -x"

PYTHON ?= python3
ifeq ($(origin TORCH_INDEX_URL), undefined)
TORCH_INDEX_URL := $(shell [ "$$(uname -s)" != Linux ] || [ -e /proc/driver/nvidia/version ] \
  || $(PYTHON) -m pip config list 2>/dev/null | grep -q -E "index-url|find-links" \
  || echo https://download.pytorch.org/whl/cpu)
endif
TEST_ARGS ?=
WORKERS ?= $(shell $(PYTHON) -c "import os; print(min(4, os.cpu_count() or 1))")
VENV := .venv
RUN := $(VENV)/bin/python
LABEL_VENV := .venv-label
LABEL_RUN := $(LABEL_VENV)/bin/python
LABEL_STAMP := $(LABEL_VENV)/.installed
LABEL_ARGS ?=
STAMP := $(VENV)/.installed
# The tests of a file stay in one process: they share what is made once, and a core is worth more to a process than to
# a second thread.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 MPLBACKEND=Agg $(RUN) -m pytest -q --durations=30 \
  -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo label-server test lint integration reliability audit bundles docs wheels clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

setup: $(STAMP)

# torch comes first: left to the other packages' requirements, pip could choose another version or build of it.
$(STAMP): setup.cfg constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" \
	  || { echo "constraints.txt needs Python 3.11 or newer; found $$($(PYTHON) --version). Set PYTHON=..."; exit 1; }
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) \
	  "$$(grep '^torch==' constraints.txt)"
	$(RUN) -m pip install --quiet -c constraints.txt -e ".[test]"
	touch $(STAMP)

demo: $(STAMP)
	$(RUN) -m medseglatdiff_monai demo --output-dir demo_output
	@echo "demo: done, results are in demo_output/"

# The studies come first: the environment takes minutes and 3 GB.
label-server:
	@case "$(STUDIES)" in http://* | https://*) ;; *) test -d "$(STUDIES)" \
	  || { echo "STUDIES is '$(STUDIES)'; expected a folder of images: make label-server STUDIES=folder"; exit 1; };; esac
	@$(MAKE) --no-print-directory $(LABEL_STAMP)
	$(LABEL_RUN) -m medseglatdiff_monai.integrations.monai_label "$(STUDIES)" $(LABEL_ARGS)

# MONAI Label 0.8.5 and this package want other versions of pydicom and numpy than their requirements say together: the
# file lists every package, and pip is to take the list as it stands.
$(LABEL_STAMP): constraints-label.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info[:2] != (3, 11))" \
	  || { echo "constraints-label.txt is for Python 3.11; found $$($(PYTHON) --version). Set PYTHON=..."; exit 1; }
	test -x $(LABEL_RUN) || $(PYTHON) -m venv $(LABEL_VENV)
	$(LABEL_RUN) -m pip install --quiet $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) \
	  "$$(grep '^torch==' constraints-label.txt)"
	$(LABEL_RUN) -m pip install --quiet --no-deps -r constraints-label.txt
	touch $(LABEL_STAMP)

test: $(STAMP)
	$(PYTEST) -m "not slow" $(TEST_ARGS)
	@echo "test: passed"

# The tests that start processes of their own or run whole pipelines; the end says which were skipped and why. MONAI
# Label is installed over this environment for them (320 MB). With MEDSEGLATDIFF_ENVIRONMENTS=1 the full environments of
# MONAI Label and MONAI Deploy are built, and removed.
integration: $(STAMP)
	MEDSEGLATDIFF_ENVIRONMENTS=$${MEDSEGLATDIFF_ENVIRONMENTS:-lean} $(PYTEST) -rs -m integration $(TEST_ARGS)
	@echo "integration: passed"

# What takes longer than make test may: repeated, killed and resumed runs, thousands of bad files. What was tried and how
# it ended goes to benchmarks/results/reliability; 'python benchmarks/figures.py' makes the table of the docs from it.
reliability: $(STAMP)
	MEDSEGLATDIFF_RELIABILITY=$(CURDIR)/benchmarks/results/reliability $(PYTEST) -m slow $(TEST_ARGS)
	@echo "reliability: passed"

lint: $(STAMP)
	$(RUN) -m ruff check medseglatdiff_monai tests benchmarks
	$(RUN) -m ruff format --check medseglatdiff_monai tests benchmarks
	$(RUN) -m mypy
	@echo "lint: passed"

# For maintainers: known vulnerabilities of the tested versions, where the service that lists them can be reached, and the
# page of licences.
audit: $(STAMP)
	$(RUN) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet pip-audit pip-licenses
	(sed '/^<!-- licences -->/q' docs/reference/licences.md; .venv-audit/bin/pip-licenses --python $(RUN) --from=mixed \
	  --order=license --no-version --format=markdown | sed -E 's/ +\|/ |/g; s/-{4,}/---/g'; \
	  echo '<!-- /licences -->') > licences.tmp
	mv licences.tmp docs/reference/licences.md
	.venv-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip
	@echo "audit: no known vulnerability; licences in docs/reference/licences.md"

# For maintainers: the bundles' stage files are built from configs/; a test fails when they differ.
bundles: $(STAMP)
	$(RUN) -m medseglatdiff_monai.bundle
	@echo "bundles: built"

# The pages go to build/site; a link or anchor that leads nowhere is an error.
docs: $(STAMP)
	$(RUN) -m pip install --quiet -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict
	@echo "docs: build/site/index.html"

# Each wheel from its source distribution, which shows that this one is complete. dist/ is all that another machine needs.
wheels: $(STAMP)
	$(RUN) -m pip install --quiet -c constraints.txt build
	rm -rf dist
	$(RUN) -m build --outdir dist .
	$(RUN) -m build --outdir dist bundles
	rm dist/medseglatdiff_monai_bundles-*.tar.gz
	@echo "wheels: pip install dist/*.whl"

clean:
	rm -rf $(VENV) $(LABEL_VENV) .venv-audit demo_output build dist *.egg-info bundles/*.egg-info .pytest_cache .mypy_cache .ruff_cache
