# dyt: make help
#
#   CUDA=0            build with g++ alone: cpu + emulated (default: nvcc, if it is found: cpu + cuda)
#   ARCH="80 90"      GPU generations to compile for; the last one also as PTX, for newer GPUs (90
#                     is sm_90a where a kernel needs it)
#   BLAS=none         no oneDNN: our own matrix products on the CPU
#   SANITIZE=address  AddressSanitizer, for the emulator
#   SANITIZE=thread   every access of a kernel is watched: for races, and for what it costs
#   NATIVE=0          portable code (x86-64-v3, or any arm64) instead of this machine's
#   CXX=clang++       another compiler than g++, with CUDA=0 (nvcc keeps to g++)
NVCC := $(or $(shell command -v nvcc 2>/dev/null),$(wildcard /usr/local/cuda/bin/nvcc))
# C++20 and Hopper's instructions came with CUDA 12; Ubuntu 22.04 has nvcc 11.
NVCC_RELEASE := $(if $(NVCC),$(shell $(NVCC) --version | sed -n 's/.*release \([0-9]*\).*/\1/p'))
ifneq ($(filter 7 8 9 10 11,$(NVCC_RELEASE)),)
  $(warning $(NVCC) is CUDA $(NVCC_RELEASE), and 12 is needed: building without)
  NVCC :=
endif
# (with SANITIZE the kernels are emulated)
CUDA ?= $(if $(filter none,$(SANITIZE)),$(if $(NVCC),1,0),0)
ARCH ?= 80 90
BLAS ?= onednn
SANITIZE ?= none
NATIVE ?= 1

# Every combination has its own folder, so switching back and forth builds nothing twice.
BUILD := build/$(if $(filter 0,$(CUDA)),emulated,cuda-$(subst $() ,-,$(strip $(ARCH))))$(if $(filter none,$(BLAS)),-noblas)$(if $(filter none,$(SANITIZE)),,-$(SANITIZE))$(if $(filter 0,$(NATIVE)),-portable)$(if $(filter g++,$(CXX)),,-$(notdir $(CXX)))

# g++ 12 warns of overlapping copies in its own std::string (bug 105651): no -Wrestrict. On arm64 it
# notes where calls differ from g++ 9's: no -Wpsabi. The warning of vector operations says where a
# vector is wider than the processor's registers: such a loop goes through memory, nine times as slow.
# clang would warn of every loop in f64 that calls exp or erfc that it can't vectorise it.
X86 := $(filter x86_64-%,$(shell $(CXX) -dumpmachine))
CLANG := $(findstring clang,$(CXX))
WARNINGS := -Wall -Wextra $(if $(CLANG),-Wno-pass-failed,-Wno-restrict -Wvector-operation-performance) $(if $(X86),,-Wno-psabi)
# Given AVX-512, g++ would still take 256-bit vectors: GELU gains a third from the wider ones.
MARCH := $(if $(filter 0,$(NATIVE)),$(if $(X86),-march=x86-64-v3),-march=native \
  $(if $(X86),-mprefer-vector-width=512))
OPTIMIZE_none := -O3 -g1
OPTIMIZE_address := -O1 -g1 -fsanitize=address -fno-omit-frame-pointer
# addr2line, which finds the line of an access, wants addresses as they are in the file.
OPTIMIZE_thread := -O2 -g1 -fno-pie -fdebug-prefix-map=$(CURDIR)=.
OPTIMIZE := $(or $(OPTIMIZE_$(SANITIZE)),$(error SANITIZE is none, address or thread))
# What it calls is core/emulator_watch.cpp's.
WATCH := $(if $(filter thread,$(SANITIZE)),$(if $(CLANG),$(error SANITIZE=thread is for g++))-fsanitize=thread)
# No math here reads errno or relies on floating-point traps; NaN and infinity keep their meaning.
HOST := $(OPTIMIZE) $(MARCH) -fopenmp -fno-math-errno -fno-trapping-math
COMMIT := $(shell git describe --always --dirty --abbrev=10 2>/dev/null || echo unknown)
DEFINES := $(if $(filter none,$(BLAS)),,-DDYT_ONEDNN) $(if $(filter 0,$(CUDA)),-DDYT_EMULATED) \
  $(if $(WATCH),-DDYT_WATCHED)
CXXFLAGS := -std=c++20 $(WARNINGS) $(HOST) $(DEFINES) -I.
comma := ,
empty :=
space := $(empty) $(empty)
GENCODE := $(foreach a,$(filter-out $(lastword $(ARCH)),$(ARCH)),-gencode arch=compute_$(a),code=sm_$(a)) \
  -gencode arch=compute_$(lastword $(ARCH)),code=[sm_$(lastword $(ARCH))$(comma)compute_$(lastword $(ARCH))]
# Hopper's own instructions (core/warpgroup.h) exist only in code for sm_90a. Where they are used,
# that takes the place of sm_90; in PTX for newer GPUs those kernels are empty and not launched.
WARPGROUP_GENCODE := $(foreach a,$(ARCH),$(if $(filter 90,$a),-gencode arch=compute_90a$(comma)code=sm_90a,-gencode arch=compute_$(a),code=sm_$(a))) \
  -gencode arch=compute_$(lastword $(ARCH)),code=compute_$(lastword $(ARCH))
NVCCFLAGS = -std=c++20 -O3 --expt-relaxed-constexpr $(GENCODE) -lineinfo $(DEFINES) -I. \
  -Xcompiler=$(subst $(space),$(comma),$(strip $(WARNINGS) $(HOST)))

LIBS := $(if $(filter none,$(BLAS)),,-ldnnl) $(if $(filter 0,$(CUDA)),-lboost_context,-lcublasLt) -lz -lpthread
ifneq ($(CUDA),0)
  LINK := $(NVCC) -std=c++20 $(GENCODE) -Xcompiler=-fopenmp
else
  LINK := $(CXX) -fopenmp -rdynamic $(if $(filter address,$(SANITIZE)),-fsanitize=address) $(if $(WATCH),-no-pie)
endif

FOLDERS := core layers models training datasets experiments bench commands
SOURCES := $(wildcard $(FOLDERS:%=%/*.cpp) $(FOLDERS:%=%/*.cu))
ifneq ($(CUDA),0)
  SOURCES := $(filter-out core/emulator%.cpp,$(SOURCES))
endif
TEST_SOURCES := $(wildcard tests/*.cpp tests/*/*_test.cpp tests/*/*_test.cu)
objects = $(patsubst %,$(BUILD)/%.o,$(1))

.DELETE_ON_ERROR:
.PHONY: all help deps demo test portable clean binaries tests format nvcc
all: dyt

help:
	@echo "make deps       install what is missing (apt)"
	@echo "make            build ./dyt: cpu + cuda if nvcc is found, else cpu + emulated"
	@echo "make demo       build, and run experiment 03 on the embedded data"
	@echo "make test       build and run all tests"
	@echo "make resources  what nvcc says of registers and spills, below build/resources"
	@echo "make portable   dyt_portable and dyt_portable_tests, to be copied to a GPU machine"
	@echo "make format     clang-format all sources"
	@echo "make clean      remove what was built"
	@echo "Settings: CUDA=0  ARCH=\"80 90\"  BLAS=none  SANITIZE=address|thread  NATIVE=0  CXX=clang++   (see Makefile)"

nvcc:  # which one is taken, for scripts
	@echo "$(NVCC)"

# --- What is needed -------------------------------------------------------------------------------
PACKAGES := g++ make libcli11-dev libgtest-dev libstb-dev libdnnl-dev libboost-context-dev \
  nlohmann-json3-dev gnuplot-nox zlib1g-dev
deps:
	@missing=""; for p in $(PACKAGES); do \
	  dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q "ok installed" || missing="$$missing $$p"; \
	done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	sudo=""; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	echo "Installing:$$missing"; \
	$$sudo apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends $$missing > /dev/null

# --- Building -------------------------------------------------------------------------------------
# ./dyt is a copy of the last build; each build lies in its own folder below build/.
dyt: $(BUILD)/dyt FORCE
	@cmp -s $< $@ || cp $< $@
FORCE:
.PHONY: FORCE

$(BUILD)/dyt: $(call objects,$(SOURCES) main.cu)
	$(LINK) $^ -o $@ $(LIBS)

$(BUILD)/dyt_tests: $(call objects,$(SOURCES) $(TEST_SOURCES))
	$(LINK) $^ -o $@ -lgtest -lgtest_main $(LIBS)

# The tests of the lower half, which the emulator runs under AddressSanitizer, and watched.
LOWER := $(filter core/% layers/% models/% datasets/% training/%,$(SOURCES)) \
  $(patsubst %,bench/%.cpp,flops kernel_runner ladders numbers) \
  $(filter tests/%.cpp tests/%.cu,$(wildcard tests/*.cpp $(foreach f,bench core layers models training,tests/$f/*_test.c*)))
$(BUILD)/kernel_tests: $(call objects,$(LOWER))
	$(LINK) $^ -o $@ -lgtest -lgtest_main $(LIBS)

$(BUILD)/%.cpp.o: %.cpp
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS) $(EXTRA) -MMD -MP -c $< -o $@

$(BUILD)/%.cu.o: %.cu
	@mkdir -p $(@D)
ifneq ($(CUDA),0)
	$(NVCC) $(NVCCFLAGS) -MMD -MP -c $< -o $@
else
	$(CXX) $(CXXFLAGS) $(WATCH) -Wno-unknown-pragmas -MMD -MP -x c++ -c $< -o $@
endif

$(BUILD)/core/warpgroup.cu.o $(BUILD)/layers/attention_wgmma%.o $(BUILD)/tests/core/warpgroup_test.cu.o: \
  GENCODE := $(WARPGROUP_GENCODE)

# The command line has no kernels: no reason to have nvcc read it once per architecture.
$(BUILD)/main.cu.o: main.cu
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS) -MMD -MP -x c++ -c $< -o $@

# Reports say which commit the program was built from.
$(BUILD)/commit: FORCE
	@mkdir -p $(@D)
	@echo '$(COMMIT)' | cmp -s - $@ || echo '$(COMMIT)' > $@
$(BUILD)/experiments/report.cpp.o: $(BUILD)/commit
$(BUILD)/experiments/report.cpp.o: EXTRA := -DDYT_COMMIT='"$(COMMIT)"'

# --- What the compiler says of the kernels that take the time: registers, stack, spills ------------
# tests/compiler/resources_test.cpp reads it. 90a: Hopper with its own instructions.
HOT := layers/dyt.cu layers/layernorm.cu layers/rmsnorm.cu layers/batchnorm.cu layers/gelu.cu \
  layers/linear.cu layers/residual.cu layers/cross_entropy.cu layers/cross_entropy_soft.cu \
  layers/tied_head.cu layers/depthwise_conv.cu layers/activation.cu layers/swiglu.cu \
  layers/layer_scale.cu layers/dropout.cu layers/rope.cu layers/token_embedding.cu training/adamw.cu \
  $(wildcard layers/mlp.cu layers/attention*.cu)
REPORTS := $(foreach a,80 90a,$(HOT:%.cu=build/resources/$a/%.txt))
resources: $(if $(NVCC),$(REPORTS))
.PHONY: resources
build/resources/%.txt:
	@mkdir -p $(@D)
	$(NVCC) -std=c++20 -O3 --expt-relaxed-constexpr -I. -cubin -arch=sm_$(firstword $(subst /, ,$*)) \
	  -Xptxas -v -MMD -MP -MT $@ -MF $(@:.txt=.d) $(SOURCE) -o $(@:.txt=.cubin) 2> $@ || (cat $@; rm $@; exit 1)
define report_rule
build/resources/$(1)/$(2:.cu=.txt): $(2)
build/resources/$(1)/$(2:.cu=.txt): SOURCE := $(2)
endef
$(foreach a,80 90a,$(foreach f,$(HOT),$(eval $(call report_rule,$a,$f))))
-include $(REPORTS:.txt=.d)

# The synthetic images must be the same everywhere: no fused multiply-add.
$(BUILD)/datasets/synthetic.cpp.o: EXTRA := -ffp-contract=off

-include $(patsubst %,$(BUILD)/%.d,$(SOURCES) $(TEST_SOURCES) main.cu)

# --- Running --------------------------------------------------------------------------------------
demo:
	@$(MAKE) --no-print-directory -s -j$$(nproc) dyt
	./dyt run 03 --size small --data synthetic --out out

test:
	@tests/run.sh

portable:
	$(MAKE) NATIVE=0 BLAS=none CUDA=1 build-portable
build-portable: $(BUILD)/dyt $(BUILD)/dyt_tests
	strip -o dyt_portable $(BUILD)/dyt
	strip -o dyt_portable_tests $(BUILD)/dyt_tests
.PHONY: build-portable

format:
	clang-format -i $(wildcard *.cu $(FOLDERS:%=%/*.[hc]*) tests/*.[hc]* tests/*/*.[hc]*)

clean:
	rm -rf build dyt dyt_portable dyt_portable_tests
