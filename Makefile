# Needs only python3 (>= 3.11) with pip and venv. The first call installs the pinned packages into .venv; later ones start at once.
SHELL := /bin/bash
PYTHON ?= python3
RUN := .venv/bin

.PHONY: help install demo realrag submit test check format lock clean

help:
	@echo "make demo     make, score and price the miniature world's images; report in ./report"
	@echo "make realrag  train the three retrievers, draw with their references, judge; report in ./report-realrag"
	@echo "make submit   the same through 'ray job submit' on a head node started on this machine"
	@echo "make test     every test, with coverage of engine/"
	@echo "make check    formatting, lint, types, import floors"
	@echo "make lock     renew requirements.lock from pyproject.toml"

install: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(RUN)/pip install --quiet --disable-pip-version-check "uv>=0.9"
	$(RUN)/uv pip install --quiet --python $(RUN)/python --require-hashes -r requirements.lock
	$(RUN)/uv pip install --quiet --python $(RUN)/python --no-deps -e .
	@touch $@

demo: .venv/ready
	$(RUN)/python jobs/genbench_500shot.py --shots 1 5 20 100 --workspace workspace/demo --report report

realrag: .venv/ready
	$(RUN)/python jobs/realrag_ablation.py --test-images 50 --workspace workspace/realrag --report report-realrag

submit: .venv/ready
	$(RUN)/python deploy/submit_locally.py -- --shots 1 5 20 --workspace $(CURDIR)/workspace/submit --report $(CURDIR)/report-submit

test: .venv/ready
	$(RUN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder --durations=30 --cov --cov-report=term:skip-covered --cov-fail-under=90

check: .venv/ready
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy
	$(RUN)/lint-imports

format: .venv/ready
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

lock: .venv/ready
	$(RUN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --extra dev --extra s3 pyproject.toml -o requirements.lock

clean:
	rm -rf .venv report report-realrag report-submit workspace
