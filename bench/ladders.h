// What `dyt bench kernels` times: every op, at every rung of its ladder, with what it has to do.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "core/parameters.h"
#include "core/tape.h"

namespace dyt {

// What a kernel can't do without: each input read once and each output written once (twice read
// where a result that is needed first depends on all of it, as batchnorm's mean does), and the
// multiplications and additions of its products. Every rung of a ladder has the same.
struct Work {
  double bytes = 0, flops = 0;
};

// Numbers N(0, 1) in the tape's type, or, with `below`, random integers 0 .. below - 1.
struct KernelInput {
  Shape shape;
  int64_t below = 0;
};

enum class Direction { forward, backward };
const char* name_of(Direction direction);

struct KernelCase {
  std::string ladder, rung;
  Shape shape;  // as shown

  // An op: declare() adds its parameters, run() calls it. Or, if `body` is set, something that
  // isn't one: body(device, dtype, sets) prepares `sets` sets of data, and returns what works on
  // one.
  std::vector<KernelInput> inputs = {};
  std::function<void(Parameters&)> declare = [](Parameters&) {};
  std::function<Tensor(Tape&, const std::vector<Tensor>&, Parameters&)> run = nullptr;
  std::function<std::function<void(int set)>(Device, DType, int sets)> body = nullptr;

  std::function<void(bool on)> choose =
      nullptr;  // called with true before, with false after: a rung

  Work forward = {}, backward = {};  // backward without work: not timed
  const Work& work(Direction d) const { return d == Direction::forward ? forward : backward; }
  // Whether its floor is the arithmetic of matrix products, rather than the memory's bandwidth.
  bool products() const { return forward.flops > 0; }
};

struct KernelShapes {
  std::vector<int64_t> rows, channels;  // of norms and what works element by element: all pairs
  int64_t tokens;                       // per text, of attention; the others take rows[0] tokens
  int64_t vocabulary;
};
KernelShapes kernel_shapes(Device device);  // what suits it: GPU-sized, or done in a minute

std::vector<KernelCase> kernel_cases(const KernelShapes& shapes, DType dtype);
std::vector<std::string> kernel_ladders();  // their names
std::vector<int64_t> dims_of(const Shape& shape);

// What the command line asks for.
struct KernelChoice {
  std::vector<std::string> ladders;     // names, e.g. "layernorm"; empty: all
  std::vector<int64_t> rows, channels;  // empty: kernel_shapes() of the device
  int64_t tokens = 0, vocabulary = 0;   // 0: likewise
};
// Error for a ladder that isn't there, or a shape that can't be.
std::vector<KernelCase> chosen_kernels(const KernelChoice& choice, Device device, DType dtype);

}  // namespace dyt
