# CoBox. `make help` lists what there is.

GO        ?= go
FUZZTIME  ?= 10s
QEMU      ?= qemu-aarch64-static
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GOFLAGS_RELEASE = -trimpath -ldflags='-s -w -buildid= -X main.version=$(VERSION)'

# The unit tests that an ARM box must pass; cmd starts host programs, so it is left out.
ARM_PACKAGES = ./storage/... ./netlink/... ./image/layout ./image/holds ./image/bundle ./image/fat32 ./image/slot ./appliance/...

.PHONY: help build run demo test check race fuzz e2e bench image image-test vuln fmt lint cross arm64

help: ## list every target
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build cobox (the member's program), coboxd (the box) and coboximg (makes boxes) into bin/
	CGO_ENABLED=0 $(GO) build $(GOFLAGS_RELEASE) -o bin/ ./cmd/cobox ./cmd/coboxd ./cmd/coboximg

run: build ## run a box here, with its data in ./.run
	mkdir -p .run && bin/coboxd run --data .run

demo: build ## the main job from pairing to a restore that is compared byte for byte
	$(GO) run ./cmd/demo -bin bin

test: ## all tests, with the race detector; all power cuts and I/O errors, and building the image, without it
	$(GO) test -race -timeout 40m ./...
	$(GO) test -timeout 40m -v -run '^(TestPowerCuts|TestInjectedErrors)$$' ./storage/replica
	$(GO) test -timeout 40m ./image

race: test ## the same as test

check: lint build cross test arm64 fuzz demo image-test ## everything that must pass before a change lands

lint: ## formatting and vet
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "gofmt would change:"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	$(GO) mod verify >/dev/null
	$(GO) mod tidy -diff

cross: ## build for the box's ARM target and for the members' desktops
	GOOS=linux GOARCH=arm64 CGO_ENABLED=0 $(GO) build -o /dev/null ./cmd/coboxd
	GOOS=linux GOARCH=arm64 CGO_ENABLED=0 $(GO) build -o /dev/null ./cmd/cobox
	GOOS=linux GOARCH=arm64 CGO_ENABLED=0 $(GO) build -o /dev/null ./cmd/cobox-init
	GOOS=darwin GOARCH=arm64 CGO_ENABLED=0 $(GO) build -o /dev/null ./cmd/cobox
	GOOS=darwin GOARCH=arm64 CGO_ENABLED=0 $(GO) build -o /dev/null ./cmd/coboximg
	GOOS=windows GOARCH=amd64 CGO_ENABLED=0 $(GO) build -o /dev/null ./cmd/cobox

arm64: ## the short unit tests as arm64, under user-mode emulation
	GOOS=linux GOARCH=arm64 CGO_ENABLED=0 $(GO) test -short -timeout 30m -exec $(QEMU) $(ARM_PACKAGES)

fuzz: ## every fuzz target for FUZZTIME each (10s), two at a time
	@for p in $$($(GO) list ./...); do \
	  d=$$($(GO) list -f '{{.Dir}}' $$p); \
	  grep -hos '^func Fuzz[A-Za-z0-9_]*' $$d/*_test.go | sed "s|^func |$$p |" | sort -u; \
	done | xargs -P 2 -L 1 .ci/fuzz $(GO) $(FUZZTIME)

e2e: build ## only the tests that drive the real programs
	$(GO) test -race -timeout 30m ./cmd/...

bench: build ## the comparison of docs/PERFORMANCE.md (needs rclone; takes about an hour)
	cd cmd/bench/restic && CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w -buildid=' -o ../../../bin/restic github.com/restic/restic/cmd/restic
	$(GO) build -o bin/bench-gen ./cmd/bench/gen
	$(GO) build -o bin/bench-meas ./cmd/bench/meas
	CGO_ENABLED=0 $(GO) build $(GOFLAGS_RELEASE) -o bin/bench-floor ./cmd/bench/floor
	$(GO) run ./cmd/bench -bin bin

image-test: image ## boot the image in an emulated computer: pairing, backup, power cuts, restore
	$(GO) test -timeout 60m -v ./image/boottest -image $(CURDIR)/out/cobox.img

image: ## build the flashable image and what belongs beside it into out/ (needs mke2fs)
	$(GO) run ./cmd/coboximg build --out out --version $(VERSION)

vuln: ## known vulnerabilities in what the programs use
	$(GO) run golang.org/x/vuln/cmd/govulncheck@latest ./...

fmt: ## format the Go code
	gofmt -w $$(git ls-files '*.go')
