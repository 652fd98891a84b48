# Two commands: `make quickstart` trains a small ViT, `make test` runs the tests (`make test-slow`
# those that take long).
# Each sets up .venv first; PYTHON=python3.12 picks another interpreter, WORKERS=8 has so many
# processes run the tests.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
# On CPUs a step's memory stays with the process, in large pages: see RESULTS.md.
MEMORY := glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=100000000000

.PHONY: quickstart test test-slow clean

quickstart: .venv/installed
	@GLIBC_TUNABLES=$(MEMORY) \
	  $(BIN)/python -m vit_jax.main --config=configs/quickstart.py --workdir=runs/quickstart
	@echo
	@echo "Next: look at the curves (pip install tensorboard); train on your own images, with"
	@echo "FOLDER/{train,val}/<class>/*.jpg"
	@echo "  $(BIN)/python -m vit_jax.main --config=configs/quickstart.py --workdir=runs/mine \\"
	@echo "    --config.dataset=FOLDER --config.image_size=64 --config.resize_size=0"
	@echo "or read configs/vit_b16.py, the paper's recipe. 'rm -r runs/quickstart' starts anew."

test: .venv/installed
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile tests -m "not slow"

test-slow: .venv/installed
	$(BIN)/python -m pytest -q tests -m slow

.venv/installed: setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf .venv build *.egg-info
