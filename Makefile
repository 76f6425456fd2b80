# make test runs every test that can run here; it installs nothing. Tests against a real server run where a redis-server
# is found (or CACHE_REDIS_SERVER names one) and say so when they are skipped; CACHE_REQUIRE_REDIS=1 turns such a skip
# into a failure. In the same way what is shown to people is looked at in a Chromium where there is one, and CACHE_REQUIRE_BROWSER=1.
#
# make check is what CI does: the tests, the linters (pinned in tools/go.mod), and the tests again with the oldest Go and
# the newest dependencies.

GO ?= go
SHELL := bash
TESTFLAGS := -race -shuffle=on -parallel 4 -timeout 10m
TOOL := $(GO) tool -modfile=tools/go.mod
FLOOR := go$(shell sed -n "s|^go ||p" go.mod)
EXPLORE := ^Test(Explore|Seeds|SeedsAgain|Shrink|Protocol|Tags|Failover)$$
MODULES := examples cacheprom cacheotel cmd/cachevet internal/comingfrom internal/browser
COUNTS := $(CURDIR)/.counts
PLAYED := $(CURDIR)/.played
PLAY := env CACHE_COUNTS=$(COUNTS) CACHE_EXPLORE=complete $(GO) test -count=1 -timeout 30m -run '$(EXPLORE)' . ./internal/model
FUZZ := $(GO) test -run '^$$' -fuzztime 5000x -fuzzminimizetime 10x

.PHONY: check test lint compat versions newest mutants explore explore-long faults soak flush hotkey simulate bench guide
check: test lint compat versions

# Most tests against real servers wait most of the time; all schedules are played meanwhile, with the lowest priority.
# Fuzzing is bounded by a count: bounded by time, go test now and then fails with "context deadline exceeded".
test:
	@: >$(COUNTS)
	@test -z "$$(gofmt -l .)" || { echo "not formatted:"; gofmt -l .; exit 1; }
	$(GO) mod tidy -diff
	$(GO) vet ./...
	@set -m; echo "$(PLAY) # beside what follows"; nice -n 19 $(PLAY) >$(PLAYED) 2>&1 & \
	trap "kill -- -$$! 2>/dev/null; rm -f $(PLAYED)" EXIT; \
	echo "CACHE_COUNTS=$(COUNTS) $(GO) test $(TESTFLAGS) ./..."; \
	CACHE_COUNTS=$(COUNTS) $(GO) test $(TESTFLAGS) ./... || exit; \
	for m in $(MODULES); do (set -x; cd $$m && $(GO) mod tidy -diff && $(GO) test $(TESTFLAGS) ./...) || exit; done; \
	echo "waiting for $(PLAY)"; wait $$!; code=$$?; cat $(PLAYED); exit $$code
	$(FUZZ) -fuzz '^FuzzOpen$$' ./internal/record
	$(FUZZ) -fuzz '^FuzzCheck$$' ./internal/msgpackscan
	@for f in FuzzRecord FuzzCodec FuzzKeys FuzzMessage; do \
		echo "$(FUZZ) -fuzz ^$$f\$$ ."; $(FUZZ) -fuzz "^$$f\$$" . || exit 1; done
	@echo "schedules played to their end:"; awk -F '\t' '{n[$$1] += $$3; of[$$1 FS $$2] += $$3} \
		END {for (w in n) {printf "%9d %s:", n[w], w; for (k in of) {split(k, p, FS); if (p[1] == w) printf " %s %d", p[2], of[k]}; print ""}}' $(COUNTS)
	@command -v "$${CACHE_REDIS_SERVER:-redis-server}" >/dev/null || \
		echo "SKIPPED: the tests against a real Redis: no $${CACHE_REDIS_SERVER:-redis-server} found"
	@ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || \
		echo "SKIPPED: jumps of a real Redis's clock: no libfaketime found"
	@command -v chromium chromium-browser google-chrome >/dev/null || echo "SKIPPED: pages and reports in a browser: no chromium found"

lint:
	@bad="$$($(TOOL) gofumpt -l .)" && test -z "$$bad" || { echo "not as gofumpt has it: $$bad"; exit 1; }
	$(GO) vet ./...
	$(TOOL) staticcheck ./...
	$(TOOL) golangci-lint run ./...
	cd bench && $(GO) mod tidy -diff && $(GO) vet ./...
	@for m in $(MODULES); do (set -x; cd $$m && $(GO) vet ./...) || exit; done
	@out="$$($(TOOL) govulncheck ./... 2>&1)"; code=$$?; \
	if [[ $$code != 0 && $$out == *"fetching vulnerabilities"* ]]; then \
		echo "SKIPPED: govulncheck: its database cannot be reached"; \
	else echo "$$out"; exit $$code; fi

# compat compares the exported API with that of the last release. From v1 on what does not fit is a failure.
compat:
	@tag=$$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null) || { echo "no release yet to compare the API with"; exit 0; }; \
	old=$$(mktemp -d); trap "git worktree remove --force $$old; rm -rf $$old $$old.api" EXIT; git worktree add -q --detach $$old $$tag || exit; \
	cp tools/go.mod $$old/.tools.mod; cp tools/go.sum $$old/.tools.sum; \
	(cd $$old && $(GO) tool -modfile=.tools.mod apidiff -w $$old.api github.com/bellwether-go/cache) || exit; \
	gone=$$($(TOOL) apidiff -incompatible $$old.api github.com/bellwether-go/cache) || exit; \
	echo "what is not compatible in the API since $$tag:"; echo "$${gone:-nothing}"; [[ -z $$gone || $$tag == v0.* ]]

# go.mod holds the oldest versions that serve, tools/newest.mod the newest there are.
versions:
	CACHE_EXPLORE=off CACHE_FAULTS=1 $(GO) test $(TESTFLAGS) -modfile=tools/newest.mod ./...
	@if GOTOOLCHAIN=$(FLOOR) $(GO) version; then \
		echo "CACHE_EXPLORE=off CACHE_FAULTS=1 GOTOOLCHAIN=$(FLOOR) $(GO) test $(TESTFLAGS) ./..."; \
		CACHE_EXPLORE=off CACHE_FAULTS=1 GOTOOLCHAIN=$(FLOOR) $(GO) test $(TESTFLAGS) ./...; \
	else echo "SKIPPED: the tests with $(FLOOR): it cannot be had here"; fi

# mutants breaks the protocol in one place after the other and looks whether the exploration and the scenarios notice.
mutants:
	$(GO) run ./internal/mutants

# explore plays random schedules with new seeds for a while, and adds a line for each kind to docs/ledger.md.
FOR ?= 10m
explore:
	$(GO) run ./internal/seeds -for $(FOR) -ledger docs/ledger.md

# explore-long explores what takes too long for every day.
explore-long:
	CACHE_EXPLORE=long $(GO) test -count=1 -timeout 0 -v -run '$(EXPLORE)' . ./internal/model

# faults plays a hundred plans of faults against a real server, and a hundred against several (Cluster, Sentinel, Ring), and prints
# the tables of docs/reliability.md and docs/topologies.md: forty minutes.
FAULTS ?= 1-100 cluster:1-40 sentinel:1-30 ring:1-30
faults:
	CACHE_REQUIRE_REDIS=1 CACHE_FAULTS="$(FAULTS)" $(GO) test -count=1 -timeout 90m -v -run '^TestFaults$$' ./internal/faults

# soak goes on with faults for T, and sees whether anything grows: docs/topologies.md.
T ?= 30m
soak:
	CACHE_REQUIRE_REDIS=1 CACHE_SOAK=$(T) $(GO) test -count=1 -timeout 0 -v -run '^TestSoak$$' ./internal/faults

# newest renews tools/newest.mod.
newest:
	cp go.mod tools/newest.mod
	cp go.sum tools/newest.sum
	$(GO) get -modfile=tools/newest.mod -u -t ./...
	$(GO) mod tidy -modfile=tools/newest.mod

# hotkey asks four processes for a hot key for a while and tells what they wait: the numbers of docs/freshness.md.
HOTKEY ?= 15s
hotkey:
	CACHE_REQUIRE_REDIS=1 CACHE_HOTKEY=$(HOTKEY) $(GO) test -count=1 -v ./internal/hotkey

# bench measures this package beside its peers, which are in a module of their own.
bench:
	cd bench && $(GO) run .

# flush empties a cache of 100,000 keys under 20,000 calls a second, in virtual time: the table of docs/origin.md.
flush:
	CACHE_FLUSH=1 $(GO) test -count=1 -timeout 30m -v -run '^TestFlushOfEverything$$' .

# simulate draws the table of docs/freshness.md: a minute.
simulate:
	$(GO) run ./internal/simulate

# guide plays the shop of docs/guide.md, step by step, and writes the numbers there: half a minute.
guide:
	$(GO) test -count=1 -run '^TestGuide$$' ./internal/guide -rewrite
