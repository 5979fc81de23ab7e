# husk: `make run` shows it, `make test` proves it. Both install what they need, build what
# is not built yet, and reuse what is.

CARGO ?= cargo
TARGET := x86_64-unknown-linux-gnu
HUSK := target/$(TARGET)/release/husk
DEMO := build/demo
BUSYBOX := /bin/busybox
PACKAGES := $(shell sed -n 's/^\([a-z0-9.+-]\+\).*/\1/p' resources/packages.txt)

.PHONY: help
help: ## Lists these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: run
run: packages $(HUSK) kernel $(DEMO) ## Boots a VM with a web server in it and asks it for a page
	@sh resources/demo/show $(HUSK) $(DEMO)

.PHONY: test
test: packages $(HUSK) kernel lab-kernel ## Everything: style, units, and real boots on this host and in the lab
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) test --workspace
	tests/services/run --quick
	tests/lab/probe
	tests/lab/suite

.PHONY: lab
lab: packages $(HUSK) lab-kernel ## Runs CMD in the lab: make lab CMD='husk doctor'
	@tests/lab/run $(LABFLAGS) -- $(CMD)

.PHONY: kernel
kernel: $(HUSK) ## Builds the guest kernel that this host runs best, once
	@$(HUSK) kernel build

# The lab is hardware, whatever this host is.
.PHONY: lab-kernel
lab-kernel: $(HUSK) ## Builds the guest kernel the lab runs, once
	@$(HUSK) kernel build --guest-ring 0

.PHONY: packages
packages: ## Installs the Debian packages in resources/packages.txt that are missing
	@missing=$$(for p in $(PACKAGES); do \
	    dpkg-query -W -f '$${Status}' "$$p" 2>/dev/null | grep -q 'ok installed' || echo "$$p"; done | xargs); \
	if [ -n "$$missing" ]; then \
	    if [ "$$(id -u)" = 0 ]; then \
	        apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $$missing; \
	    else \
	        echo "husk needs Debian packages; install them with"; \
	        echo "    sudo apt-get install --no-install-recommends $$missing"; exit 1; \
	    fi; \
	fi
	@command -v $(CARGO) >/dev/null || { echo "husk needs a Rust toolchain: see https://rustup.rs"; exit 1; }

# Cargo knows what is up to date.
.PHONY: $(HUSK)
$(HUSK):
	$(CARGO) build --release

$(DEMO): $(BUSYBOX) resources/demo/rootfs $(wildcard resources/demo/www/*)
	@sh resources/demo/rootfs $(BUSYBOX) $@
