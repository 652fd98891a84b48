# make quickstart  trains a small ViT
# make test        runs the tests, in WORKERS processes; make test-slow runs the slow ones
# make lint        checks the format, the style and the types
#
# Each command first sets up a virtual environment in VENV, with the newest Python that is
# installed. To choose another, run for example
# `make test PYTHON=python3.11 VENV=.venv311 WORKERS=8`.
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin

.PHONY: quickstart test test-slow lint venv clean

quickstart: venv
	@$(BIN)/python -m vit_jax.main --config=configs/quickstart.py --workdir=runs/quickstart
	@echo
	@echo "Next: look at the curves (pip install tensorboard), or train on your own images in"
	@echo "FOLDER/{train,val}/<class>/*.jpg:"
	@echo "  $(BIN)/python -m vit_jax.main --config=configs/quickstart.py --workdir=runs/mine \\"
	@echo "    --config.dataset=FOLDER --config.image_size=64 --config.resize_size=0"
	@echo "Or read configs/vit_b16.py, the paper's recipe. To start over: rm -r runs/quickstart"

test: venv
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile tests -m "not slow"

test-slow: venv
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile tests -m slow

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

venv:
	@.ci/venv "$(VENV)" "$(PYTHON)"

clean:
	rm -rf $(VENV) build *.egg-info
