# Needs only python3 (>= 3.11) with pip and venv. The first call installs the pinned packages into .venv; later ones start at once.
SHELL := /bin/bash
PYTHON ?= python3
RUN := .venv/bin

.PHONY: help install demo realrag serve submit test img2dataset check gpu-check floors docs format lock clean

help:
	@echo "make install  install the pinned packages and the command imagefoundry into .venv"
	@echo "make demo     run GenBench on the miniature world at 1, 5, 20 and 100 shots; report in ./report"
	@echo "make realrag  run RealRAG on the miniature world; report in ./report-realrag"
	@echo "make serve    serve the miniature world on http://127.0.0.1:8000 (API and pages), with the references of make realrag"
	@echo "make submit   run GenBench through 'ray job submit' on a Ray head started on this machine; report in ./report-submit"
	@echo "make test     run all tests, with coverage of engine/"
	@echo "make img2dataset  install img2dataset into .img2dataset, an environment of its own, so that the tests run the program itself"
	@echo "make check    check format, lint, types, import rules and lengths"
	@echo "make gpu-check  measure what this machine's GPU does with the engine; fail where a floor is missed (5 minutes)"
	@echo "make floors   run the benchmarks that have floors, each against a peer in the same run; fail where a floor is missed (half an hour)"
	@echo "make docs     build the docs site into ./site"
	@echo "make format   format the code and apply the linter's fixes"
	@echo "make lock     renew requirements.lock from pyproject.toml"
	@echo "make clean    delete .venv, reports and workspaces"

install: .venv/ready

.venv/bin/uv:
	$(PYTHON) -m venv .venv
	$(RUN)/pip install --quiet --disable-pip-version-check "uv>=0.9"

.venv/ready: .venv/bin/uv requirements.lock pyproject.toml
	# compiled once here: where PYTHONDONTWRITEBYTECODE is set, every process would compile torch for ten seconds
	$(RUN)/uv pip install --quiet --python $(RUN)/python --compile-bytecode --require-hashes -r requirements.lock
	$(RUN)/uv pip install --quiet --python $(RUN)/python --no-deps -e .
	@touch $@

demo: .venv/ready
	$(RUN)/imagefoundry genbench --shots 1 5 20 100 --workspace workspace/demo --report report

realrag: .venv/ready
	$(RUN)/imagefoundry realrag --test-images 50 --workspace workspace/realrag --report report-realrag

serve: .venv/ready
	$(RUN)/imagefoundry serve --workspace workspace/realrag

submit: .venv/ready
	$(RUN)/python deploy/submit_locally.py -- --shots 1 5 20 --workspace $(CURDIR)/workspace/submit --report $(CURDIR)/report-submit

test: .venv/ready
	$(RUN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder --durations=30 --cov --cov-report=term:skip-covered --cov-fail-under=90

img2dataset: .img2dataset/bin/img2dataset

.img2dataset/bin/img2dataset: .venv/bin/uv
	$(RUN)/uv venv --quiet --allow-existing --python $(RUN)/python .img2dataset
	$(RUN)/uv pip install --quiet --python .img2dataset/bin/python "img2dataset==1.47.0"

check: .venv/ready
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy
	$(RUN)/lint-imports
	$(RUN)/python -m pytest -q --no-header tests/test_floors.py

gpu-check: .venv/ready
	$(RUN)/python -m benchmarks.gpu.check --report gpu-check.md

floors: .venv/ready
	$(RUN)/python -m benchmarks.floors

docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(RUN)/python -m mkdocs build --strict

format: .venv/ready
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

lock: .venv/bin/uv
	$(RUN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --extra dev --extra s3 --extra export pyproject.toml -o requirements.lock

clean:
	rm -rf .venv site report report-realrag report-submit workspace
