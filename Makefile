# make test runs everything that can run here; it installs nothing. Tests against a real server run where a
# redis-server is found (or CACHE_REDIS_SERVER names one) and say so when they are skipped;
# CACHE_REQUIRE_REDIS=1 turns such a skip into a failure.

GO ?= go

.PHONY: test
test:
	@test -z "$$(gofmt -l .)" || { echo "not formatted:"; gofmt -l .; exit 1; }
	$(GO) mod tidy -diff
	$(GO) vet ./...
	$(GO) test -race -shuffle=on -timeout 10m ./...
	@command -v "$${CACHE_REDIS_SERVER:-redis-server}" >/dev/null || \
		echo "SKIPPED: the tests against a real Redis: no $${CACHE_REDIS_SERVER:-redis-server} found"
	$(GO) test -run '^$$' -fuzz FuzzOpen -fuzztime 3s ./internal/record
	$(GO) test -run '^$$' -fuzz FuzzCheck -fuzztime 3s ./internal/msgpackscan
