# weir: one GNU Makefile. `make help` lists the targets.
# Variables: CC=gcc|clang  SAN=address|undefined|thread|address,undefined  DEBUG=1  PREFIX=/usr/local  PORT=8080

CC      = gcc
PREFIX  ?= /usr/local
PORT    ?= 8080
SAN     ?=
DEBUG   ?=
VERSION := $(shell cat VERSION)
# V=1 prints whole command lines.
Q     := $(if $(V),,@)
SAY    = $(if $(V),,@echo '  $1 $@')

# As many jobs as processors where a target builds everything, unless the caller has said how many.
JOBS   = $(if $(filter -j% --jobserver%,$(MAKEFLAGS)),,-j$(shell nproc))

# Object folders are keyed by compiler and flags, so differently built trees stand side by side.
empty :=
space := $(empty) $(empty)
comma := ,
KEY   := $(notdir $(firstword $(CC)))$(if $(SAN),-$(subst $(comma),-,$(SAN)))$(if $(DEBUG),-debug)
B     := build/$(KEY)
BIN   := $(if $(SAN)$(DEBUG)$(filter-out gcc,$(CC)),$(B)/weir,weir)

# Debian 12 packages: to build, and to test.
APT_BUILD := build-essential pkg-config libevent-dev libssl-dev libjansson-dev libpcre2-dev libutf8proc-dev \
             libhwloc-dev libcurl4-openssl-dev libxxhash-dev libedit-dev libsqlite3-dev python3 python3-jinja2 ca-certificates
APT_NPM   := $(if $(shell command -v npm),,nodejs npm)
APT_TEST  := libcmocka-dev python3-numpy curl clang clang-format libclang-rt-14-dev cppcheck openssl $(APT_NPM) \
             chromium fonts-liberation tmux
PKGS      := libevent libevent_openssl libevent_pthreads openssl jansson libpcre2-8 libutf8proc hwloc libcurl libxxhash libedit sqlite3

# Without the packages only `help` and `deps` work; they are installed by `deps` and asked for again by the next make.
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS   := $(shell pkg-config --libs $(PKGS) 2>/dev/null)

WARN   := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wcast-qual \
          -Wwrite-strings -Wvla -Werror
OPT    := -ffp-contract=off $(if $(DEBUG),-O1 -DWEIR_DEBUG=1,-O2) $(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all -DWEIR_DEBUG=1)
CFLAGS += -std=c17 -D_GNU_SOURCE -g -fno-omit-frame-pointer -pthread $(OPT) $(WARN) -Isrc -I$(B)/gen $(PKG_CFLAGS) \
          -DWEIR_VERSION='"$(VERSION)"'
LDLIBS += $(PKG_LIBS) -lm -pthread
LDFLAGS += $(if $(SAN),-fsanitize=$(SAN)) -pthread

# Only kernel files get ISA flags, by their suffix; the table in src/kernel picks at run time.
ARCH := $(shell uname -m)
ISA_avx2   := -mavx2 -mfma -mf16c -mbmi2
ISA_avx512 := $(ISA_avx2) -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512cd -mprefer-vector-width=512
ISA_vnni   := $(ISA_avx512) -mavx512vnni
ISA_bf16   := $(ISA_vnni) -mavx512bf16
ISA_amx    := $(ISA_bf16) -mamx-tile -mamx-int8 -mamx-bf16

KERNEL_ARCH := $(if $(filter x86_64,$(ARCH)),x86)
SRC  := $(sort $(wildcard src/*/*.c src/device/*/*.c src/kernel/ref/*.c $(if $(KERNEL_ARCH),src/kernel/$(KERNEL_ARCH)/*.c)))
GEN  := $(B)/gen/embed.c
# Vector kernels are built once a compiler: sanitised, one file would take minutes. Their checker has canaries.
KB   := build/$(notdir $(firstword $(CC)))
OBJ  := $(patsubst $(B)/src/kernel/x86/%,$(KB)/src/kernel/x86/%,$(SRC:%.c=$(B)/%.o)) $(B)/gen/embed.o
LIB  := $(B)/libweir.a
MAIN := $(B)/src/cli/main.o
TESTS := $(sort $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/test_*.c)))
FUZZ  := $(sort $(patsubst tests/fuzz/%.c,$(B)/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c)))

.DEFAULT_GOAL := all
.PHONY: help all deps serve test test-c test-san test-http web bench lint format fuzz fuzz-replay install clean
.SECONDARY:

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 22
	@echo 'variables: CC=gcc|clang SAN=address|undefined|thread DEBUG=1 PREFIX=/usr/local PORT=8080'

all: $(BIN) ## build ./weir (installs nothing; see `make deps`)

deps: ## install the Debian packages (and, for tests, npm packages) that are missing
	@tools/deps.sh $(APT_BUILD)
deps-test: deps
	@tools/deps.sh $(APT_TEST)

serve: deps ## install what is missing, build, and serve the demo model on 127.0.0.1:$(PORT)
	@$(MAKE) --no-print-directory $(JOBS) all
	./weir serve --port $(PORT)

$(BIN): $(LIB) $(MAIN)
	$(call SAY,LINK)
	$(Q)$(CC) $(LDFLAGS) -o $@ $(MAIN) $(LIB) $(LDLIBS)

$(LIB): $(filter-out $(MAIN),$(OBJ))
	@rm -f $@
	$(Q)$(AR) rcs $@ $^

# Flags of a kernel file follow from its name: src/kernel/x86/NAME_ISA.c. -g1: lines, but no tracking of variables, which takes
# half of the time to compile the unrolled ones.
isa_of = $(lastword $(subst _, ,$(basename $(notdir $1))))
$(KB)/src/kernel/x86/%.o: src/kernel/x86/%.c
	@mkdir -p $(@D)
	$(call SAY,CC)
	$(Q)$(CC) $(filter-out -fsanitize% -fno-sanitize% -DWEIR_DEBUG% -O1 -O2 -g,$(CFLAGS)) -g1 -O3 $(ISA_$(call isa_of,$<)) -MMD -MP -c -o $@ $<
$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(call SAY,CC)
	$(Q)$(CC) $(CFLAGS) -MMD -MP -c -o $@ $<
$(B)/gen/embed.o: $(GEN)
	$(call SAY,CC)
	$(Q)$(CC) $(CFLAGS) -c -o $@ $<

# Files that the binary carries (the chat-template worker, the demo model, profiles, the dashboard): EMBED lists
# NAME=PATH pairs. web/dist is committed, so that building the server needs no npm; `make web` builds it anew.
WEB := index.html app.js style.css
PROFILES := $(sort $(wildcard profiles/models/*.json profiles/devices/*.json))
EMBED := $(strip $(if $(wildcard src/model/jinja_worker.py),jinja_worker=src/model/jinja_worker.py) \
         $(if $(wildcard models/demo/weir-demo.gguf),demo_model=models/demo/weir-demo.gguf) \
         $(foreach w,$(WEB),web/$w=web/dist/$w web/$w.gz=$(B)/gen/$w.gz) \
         plan_page=src/cli/plan.html replay_page=src/cli/replay.html page_style=src/cli/page.css page_script=src/cli/page.js \
         $(foreach p,$(PROFILES),$(p:profiles/%.json=%)=$(p)))
$(B)/gen/%.gz: web/dist/%
	@mkdir -p $(@D)
	$(Q)gzip -9nc $< >$@
$(GEN): tools/embed.sh $(foreach e,$(EMBED),$(lastword $(subst =, ,$(e))))
	@mkdir -p $(@D)
	$(Q)tools/embed.sh $@ $(EMBED)

$(B)/tests/%: tests/%.c $(LIB)
	@mkdir -p $(@D)
	$(call SAY,CC)
	$(Q)$(CC) $(CFLAGS) -Itests -MMD -MP -MF $@.d $(LDFLAGS) -o $@ $< $(LIB) -lcmocka $(LDLIBS)

# Programs that measure (docs/benchmarks.md).
$(B)/bench/%: bench/%.c $(LIB)
	@mkdir -p $(@D)
	$(call SAY,CC)
	$(Q)$(CC) $(CFLAGS) -MMD -MP -MF $@.d $(LDFLAGS) -o $@ $< $(LIB) $(LDLIBS)

# Fuzz targets replay their corpus with any compiler; with clang and SAN they are libFuzzer programs (make fuzz).
$(B)/fuzz/%: tests/fuzz/%.c tests/fuzz/replay.c $(LIB)
	@mkdir -p $(@D)
	$(call SAY,CC)
	$(Q)$(CC) $(CFLAGS) -MMD -MP -MF $@.d $(LDFLAGS) -o $@ $< tests/fuzz/replay.c $(LIB) $(LDLIBS)

test: deps-test ## install what is missing, build, and run every test (ends in `N passed, N failed`)
	@$(MAKE) --no-print-directory $(JOBS) all
	@tests/run.sh

test-c: $(TESTS) ## unit tests of this build only (SAN=... for a sanitised one)
	@tests/run.sh c "$(B)" $(TESTS)

fuzz-replay: $(FUZZ) ## run every fuzz target over its committed corpus
	@tests/run.sh fuzz "$(B)" $(FUZZ)

fuzz: ## build libFuzzer targets under build/fuzz with clang; run one as build/fuzz/fuzz_NAME tests/fuzz/corpus/NAME
	@$(MAKE) --no-print-directory CC=clang SAN=fuzzer-no-link,address,undefined lib
	@mkdir -p build/fuzz; for f in tests/fuzz/fuzz_*.c; do \
	  clang -std=c17 -D_GNU_SOURCE -g -Isrc $(PKG_CFLAGS) -fsanitize=fuzzer,address,undefined -o build/fuzz/$$(basename $$f .c) $$f \
	  build/clang-fuzzer-no-link-address-undefined/libweir.a $(LDLIBS) || exit 1; done
.PHONY: lib
lib: $(LIB)

bench: all ## measured bandwidth of this machine, and of the kernels against it
	./weir bench

lint: ## format, include layers, static analysis
	@tools/lint.sh

format: ## rewrite the C sources in the project's format
	@git ls-files -co --exclude-standard '*.c' '*.h' | xargs clang-format -i

web: ## build the dashboard (web/dist) from its sources with npm
	@tools/deps.sh $(APT_NPM)
	@cd web && { [ node_modules/.package-lock.json -nt package-lock.json ] || npm ci --no-audit --no-fund --loglevel=error; } && \
	  npm run -s check && npm run -s build

install: all ## install the binary under PREFIX
	install -D -m 755 weir $(DESTDIR)$(PREFIX)/bin/weir

clean: ## remove everything that was built
	rm -rf build weir

-include $(OBJ:.o=.d) $(TESTS:%=%.d) $(FUZZ:%=%.d)
