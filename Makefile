# The commands of the house. `make` alone lists them.
PY := .venv/bin/python

# WHY: tests start hundreds of processes, and each would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo test differential interop fuzz lint bench pages lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: ## make .venv with everything the house needs (nothing to do when it is up to date)
	@requirements/install.sh

demo: install ## two real Envoys, a CA, an OIDC issuer and the authorizer; KEEP=1 stays up
	@$(PY) -m examples.demo $(if $(KEEP),--keep)

test: install ## pytest on every core, then the examples' policy cases (JOBS=1, PYTEST_ARGS="-k name")
	@$(PY) -m pytest -n $(or $(JOBS),auto) --dist worksteal $(PYTEST_ARGS)
	@.venv/bin/meshwarden policy test examples/

differential: install ## our answers against Envoy's own filters; N=requests SETS=policy sets SEED=text
	@$(PY) -m tests.differential --requests $(or $(N),100000) --sets $(or $(SETS),300) --seed $(or $(SEED),1)

interop: install ## long runs, and judges and clients of others that Go builds (ARGS for pytest)
	@tests/interop.sh $(ARGS)

fuzz: install ## parsers by atheris, and what remembers or replays against what serves; N=runs WORLDS=n TARGET=name SEED=n
	@.venv/bin/uv pip install --quiet --python $(PY) --target build/fuzz/site \
	  --require-hashes --no-deps -r requirements/fuzz.txt
	@PYTHONPATH=build/fuzz/site $(PY) -m tests.fuzz --runs $(or $(N),200000) \
	  --seed $(or $(SEED),1) $(if $(TARGET),--target $(TARGET))
	@MESHWARDEN_RANDOM_WORLDS=$(or $(WORLDS),100) MESHWARDEN_RANDOM_EDITS=$(or $(WORLDS),100) \
	  MESHWARDEN_RANDOM_FIRST=$(or $(SEED),1)000 $(PY) -m pytest -q tests/authz/test_random_twins.py \
	  tests/authz/test_random_edits.py tests/authz/test_same_answers.py tests/authz/test_same_answers_tested.py

lint: install ## ruff's rules, ruff's format, mypy strict
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

bench: install ## measure against the stated goals; PART=name runs bench/name.py alone
	@$(PY) -m bench $(PART)

pages: install ## write docs/lint anew from the catalogue of the linter and its examples
	@$(PY) -m tests.lint.write_pages

lock: install ## write requirements/*.txt anew from *.in; UPGRADE=1 takes the newest versions
	@requirements/lock.sh $(if $(UPGRADE),--upgrade)

clean: ## remove .venv and every cache
	@rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
