#include "bench/ladders.h"

#include <algorithm>
#include <memory>

#include "bench/numbers.h"
#include "core/matmul.h"
#include "layers/attention_wgmma.h"
#include "layers/convolutions.h"
#include "layers/drop_path.h"
#include "layers/mlp.h"
#include "layers/norm.h"
#include "training/adamw.h"

namespace dyt {
namespace {

using Inputs = std::vector<Tensor>;

// One pair of rows and channels, and the bytes of a number: what the cases below are made from.
struct Size {
  int64_t rows, channels;
  double e;  // bytes per number
  double n() const { return double(rows) * double(channels); }
  Shape shape() const { return {rows, channels}; }
};

// --- Norms: memory-bound, so what counts is how often x goes by ----------------------------------

KernelCase norm_case(const Size& s, const std::string& ladder, const std::string& rung,
                     const NormSpec& spec) {
  const auto norm = std::make_shared<Norm>();
  // Statistics of a row stay on the chip; those of a column, batchnorm's, need a pass of their own.
  const double passes = spec.kind == NormKind::batchnorm ? 1 : 0;
  const double saved = spec.kind == NormKind::layernorm ? 8 * double(s.rows)
                       : spec.kind == NormKind::rmsnorm ? 4 * double(s.rows)
                                                        : 0;
  return {.ladder = ladder,
          .rung = rung,
          .shape = s.shape(),
          .inputs = {{s.shape()}},
          .declare = [=](Parameters& p) { *norm = Norm(p, "norm", s.channels, spec); },
          .run = [=](Tape& tape, const Inputs& x, Parameters&) { return (*norm)(tape, x[0]); },
          .forward = {(2 + passes) * s.n() * s.e + saved},
          .backward = {(3 + 2 * passes) * s.n() * s.e + saved}};
}

// x + f, and the norm of it, in one kernel: x and f read, both results written.
KernelCase after_residual_case(const Size& s, NormKind kind) {
  KernelCase c = norm_case(s, name_of(kind), "x + f, fused", {.kind = kind});
  c.inputs = {{s.shape()}, {s.shape()}};
  c.run = [=](Tape& tape, const Inputs& x, Parameters& p) {
    ResidualBranch branch{x[1]};
    const Parameter* const gamma = &p.find("norm.weight");
    if (kind == NormKind::rmsnorm) return rmsnorm(tape, x[0], gamma, 1e-6f, &branch);
    const Parameter* const beta = &p.find("norm.bias");
    if (kind == NormKind::layernorm) return layernorm(tape, x[0], gamma, beta, 1e-6f, &branch);
    const DytParameters all{.alpha = &p.find("norm.alpha"), .gamma = gamma, .beta = beta};
    return dyt(tape, x[0], all, Squash::tanh, &branch);
  };
  c.forward.bytes += 2 * s.n() * s.e;
  c.backward = {};
  return c;
}

void add_norms(std::vector<KernelCase>& cases, const Size& s) {
  for (const NormKind kind : {NormKind::layernorm, NormKind::rmsnorm, NormKind::dyt}) {
    cases.push_back(norm_case(s, name_of(kind), "fused", {.kind = kind}));
    cases.push_back(norm_case(s, name_of(kind), "unfused", {.kind = kind, .unfused = true}));
    cases.push_back(after_residual_case(s, kind));
  }
  for (const NormKind kind : {NormKind::derf, NormKind::hardtanh, NormKind::sigmoid, NormKind::isru,
                              NormKind::identity, NormKind::batchnorm}) {
    cases.push_back(norm_case(s, name_of(kind), "fused", {.kind = kind}));
  }
}

// --- Element by element --------------------------------------------------------------------------

void add_elementwise(std::vector<KernelCase>& cases, const Size& s) {
  const double ne = s.n() * s.e;
  const auto add = [&](const char* ladder, const char* rung, int inputs, Work forward,
                       Work backward, auto run) {
    cases.push_back({.ladder = ladder,
                     .rung = rung,
                     .shape = s.shape(),
                     .inputs = std::vector<KernelInput>(size_t(inputs), {s.shape()}),
                     .run = run,
                     .forward = forward,
                     .backward = backward});
  };
  add("gelu", "erf", 1, {2 * ne}, {3 * ne},
      [](Tape& tape, const Inputs& x, Parameters&) { return gelu(tape, x[0], Gelu::erf); });
  add("gelu", "tanh", 1, {2 * ne}, {3 * ne},
      [](Tape& tape, const Inputs& x, Parameters&) { return gelu(tape, x[0], Gelu::tanh); });
  // Backward dy is copied to f's gradient, and here added to x's, which has a place of its own: 2
  // and 3 tensors. In a model it is handed on to x.
  add("residual", "x + f", 2, {3 * ne}, {5 * ne},
      [](Tape& tape, const Inputs& x, Parameters&) { return residual_add(tape, x[0], x[1]); });
  add("residual", "x + drop(f)", 2, {3 * ne}, {5 * ne},
      [](Tape& tape, const Inputs& x, Parameters&) {
        return residual_add(tape, x[0], x[1], 0.1f);
      });
  add("dropout", "philox", 1, {2 * ne}, {2 * ne},
      [](Tape& tape, const Inputs& x, Parameters&) { return dropout(tape, x[0], 0.1f); });
  cases.push_back(
      {.ladder = "layer_scale",
       .rung = "residual + gamma x",
       .shape = s.shape(),
       .inputs = {{s.shape()}, {s.shape()}},
       .declare = [=](Parameters& p) { p.add("gamma", {s.channels}, Init::ones()); },
       .run = [](Tape& tape, const Inputs& x,
                 Parameters& p) { return layer_scale(tape, x[0], p.find("gamma"), &x[1]); },
       .forward = {3 * ne},
       .backward = {6 * ne}});  // 3 of them where dy is added to the residual's gradient
  cases.push_back(
      {.ladder = "swiglu",
       .rung = "fused",
       .shape = s.shape(),
       .inputs = {{{s.rows, 2 * s.channels}}},
       .run = [](Tape& tape, const Inputs& x, Parameters&) { return swiglu(tape, x[0]); },
       .forward = {3 * ne},
       .backward = {5 * ne}});
}

// --- Products ------------------------------------------------------------------------------------

// The three products of a linear layer (rows, in) -> (rows, out), by the library alone.
void add_matmuls(std::vector<KernelCase>& cases, int64_t rows, int64_t in, int64_t out, double e) {
  struct Kind {
    const char* rung;
    Op op_a, op_b;
    int64_t m, n, k;
  };
  for (const Kind& kind : {Kind{"y = x W'", Op::none, Op::transpose, rows, out, in},
                           Kind{"dx = dy W", Op::none, Op::none, rows, in, out},
                           Kind{"dW = dy' x", Op::transpose, Op::none, out, in, rows}}) {
    const double m = double(kind.m), n = double(kind.n), k = double(kind.k);
    cases.push_back(
        {.ladder = "matmul",
         .rung = kind.rung,
         .shape = {kind.m, kind.n, kind.k},
         .body =
             [=](Device device, DType dtype, int sets) {
               const auto a = std::make_shared<RandomSets>(device, dtype, kind.m * kind.k, sets);
               const auto b = std::make_shared<RandomSets>(device, dtype, kind.k * kind.n, sets);
               const auto c = std::make_shared<RandomSets>(device, dtype, kind.m * kind.n, sets);
               return [=](int set) {
                 product(device, dtype, kind.op_a, kind.op_b, {kind.m, kind.n, kind.k}, a->at(set),
                         b->at(set), c->at(set));
               };
             },
         .forward = {e * (m * k + k * n + m * n), 2 * m * n * k}});
  }
}

KernelCase linear_case(const Size& s, int64_t out, const std::string& ladder,
                       const std::string& rung,
                       std::function<Tensor(Tape&, const Inputs&, Parameters&)> run) {
  const double flops = 2 * s.n() * double(out);
  const double weight = double(s.channels) * double(out), y = double(s.rows) * double(out);
  return {.ladder = ladder,
          .rung = rung,
          .shape = {s.rows, out, s.channels},
          .inputs = {{s.shape()}},
          .declare =
              [=](Parameters& p) {
                p.add("weight", {out, s.channels}, Init::gaussian(0.02));
                p.add("bias", {out}, Init::gaussian(0.02));
              },
          .run = std::move(run),
          .forward = {s.e * (s.n() + weight + y), flops},
          .backward = {s.e * (2 * s.n() + 3 * weight + y), 2 * flops}};
}

void add_mlp(std::vector<KernelCase>& cases, const Size& s) {
  const int64_t C = s.channels, F = 4 * C;
  const double flops = 4 * s.n() * double(F), hidden = double(s.rows) * double(F);
  const double weights = 2 * double(C) * double(F);
  for (const auto& [rung, kind] : {std::pair{"gelu, erf", Gelu::erf}, {"gelu, tanh", Gelu::tanh}}) {
    cases.push_back({.ladder = "mlp",
                     .rung = rung,
                     .shape = {s.rows, C, F},
                     .inputs = {{s.shape()}},
                     .declare =
                         [=](Parameters& p) {
                           p.add("w1", {F, C}, Init::gaussian(0.02));
                           p.add("b1", {F}, Init::zeros());
                           p.add("w2", {C, F}, Init::gaussian(0.02));
                           p.add("b2", {C}, Init::zeros());
                         },
                     .run =
                         [kind = kind](Tape& tape, const Inputs& x, Parameters& p) {
                           return mlp(tape, x[0],
                                      {.w1 = &p.find("w1"),
                                       .b1 = &p.find("b1"),
                                       .w2 = &p.find("w2"),
                                       .b2 = &p.find("b2")},
                                      kind);
                         },
                     // before and after GELU written, the latter read; back both read, one written
                     .forward = {s.e * (2 * s.n() + weights + 3 * hidden), flops},
                     .backward = {s.e * (3 * s.n() + 3 * weights + 4 * hidden), 2 * flops}});
  }
}

void add_linears(std::vector<KernelCase>& cases, const Size& s) {
  cases.push_back(linear_case(s, 4 * s.channels, "linear", "with bias",
                              [](Tape& tape, const Inputs& x, Parameters& p) {
                                return linear(tape, x[0], p.find("weight"), &p.find("bias"));
                              }));
  for (const auto& [rung, kind] :
       {std::pair{"bias + gelu, erf", Gelu::erf}, std::pair{"bias + gelu, tanh", Gelu::tanh}}) {
    cases.push_back(linear_case(s, 4 * s.channels, "linear_gelu", rung,
                                [kind = kind](Tape& tape, const Inputs& x, Parameters& p) {
                                  return linear_gelu(tape, x[0], p.find("weight"), p.find("bias"),
                                                     kind);
                                }));
  }
}

// --- Attention -----------------------------------------------------------------------------------

void add_attention(std::vector<KernelCase>& cases, const Size& s, int64_t T, int64_t D) {
  const int heads = int(std::max<int64_t>(1, s.channels / D));
  const int64_t B = std::max<int64_t>(1, s.rows / T);
  for (const bool causal : {false, true}) {
    const Shape qkv = {B, T, 3 * heads * D};
    // Forward two products of (T, D) and (D, T) in every head, backward five: scores once more,
    // dv, dp, dq, dk. A causal mask leaves half of them.
    const double product =
        2 * double(B * heads) * double(T) * double(T) * double(D) * (causal ? 0.5 : 1);
    const double x = double(qkv.size()) * s.e;
    const double statistics = 4 * double(B * heads * T);
    KernelCase c{.ladder = "attention",
                 .rung = "width " + std::to_string(D) + (causal ? ", causal" : ""),
                 .shape = {B, heads, T, D},
                 .inputs = {{qkv}},
                 .run =
                     [=](Tape& tape, const Inputs& in, Parameters&) {
                       return attention(tape, in[0], {.heads = heads, .causal = causal});
                     },
                 .forward = {x * 4 / 3 + statistics, 2 * product},
                 .backward = {x * 8 / 3 + statistics, 5 * product}};
    cases.push_back(c);
    if (s.e > 2) continue;  // only bf16 has tensor cores, and so other rungs below
    const std::string rung = c.rung;
    if (attention_on_warpgroups && warpgroups_run_here()) {
      c.rung = rung + ", mma";
      c.choose = [](bool on) { attention_on_warpgroups = !on; };
      cases.push_back(c);
    }
    c.rung = rung + ", plain";
    c.choose = [](bool on) { attention_on_tensor_cores = !on; };
    cases.push_back(c);
  }
}

void add_rope(std::vector<KernelCase>& cases, const Size& s, int64_t T) {
  const int heads = int(std::max<int64_t>(1, s.channels / 64));
  const Shape qkv = {std::max<int64_t>(1, s.rows / T), T, 3 * s.channels};
  const double x = double(qkv.size()) * s.e;
  cases.push_back({.ladder = "rope",
                   .rung = "packed qkv",
                   .shape = qkv,
                   .inputs = {{qkv}},
                   .run = [=](Tape& tape, const Inputs& in,
                              Parameters&) { return rope(tape, in[0], {.heads = heads}); },
                   .forward = {2 * x},
                   .backward = {2 * x}});
}

// --- The ends of a language model ----------------------------------------------------------------

void add_text_ends(std::vector<KernelCase>& cases, const Size& s, int64_t V) {
  const double ne = s.n() * s.e, indices = 4 * double(s.rows);
  cases.push_back({.ladder = "token_embedding",
                   .rung = "token + position",
                   .shape = {s.rows, s.channels, V},
                   .inputs = {{{1, s.rows}, V}},
                   .declare =
                       [=](Parameters& p) {
                         p.add("token", {V, s.channels}, Init::gaussian(0.02));
                         p.add("position", {s.rows, s.channels}, Init::gaussian(0.02));
                       },
                   .run =
                       [](Tape& tape, const Inputs& in, Parameters& p) {
                         return token_embedding(tape, in[0], p.find("token"), &p.find("position"));
                       },
                   .forward = {3 * ne + indices},
                   // dy, and the f32 gradients of both tables read and written
                   .backward = {ne + 16 * s.n() + indices}});
  const int64_t rows = std::max<int64_t>(1, s.rows / 4);
  const double logits = double(rows) * double(V) * s.e;
  cases.push_back({.ladder = "cross_entropy",
                   .rung = "rows of logits",
                   .shape = {rows, V},
                   .inputs = {{{rows, V}}, {{rows}, V}},
                   .run = [](Tape& tape, const Inputs& in,
                             Parameters&) { return cross_entropy(tape, in[0], in[1]); },
                   .forward = {logits},
                   .backward = {2 * logits}});
  // The op computes its gradients on the way forth (tied_head.cu): three products.
  const double product = 2 * double(rows) * double(V) * double(s.channels);
  const double weight = double(V) * double(s.channels), x = double(rows) * double(s.channels);
  for (const auto& [rung, tile] : {std::pair{"loss and gradients", 1}, {"rows by 128", 128}}) {
    cases.push_back(
        {.ladder = "tied_head",
         .rung = rung,
         .shape = {rows, V, s.channels},
         .inputs = {{{rows, s.channels}}, {{rows}, V}},
         .declare =
             [=, tile = tile](Parameters& p) {
               Parameter& weight = p.add("weight", {V, s.channels}, Init::gaussian(0.02));
               weight.stored_rows = (V + tile - 1) / tile * tile;
             },
         .run = [](Tape& tape, const Inputs& in,
                   Parameters& p) { return tied_head(tape, in[0], p.find("weight"), in[1]); },
         .forward = {s.e * (2 * x + weight) + 4 * weight, 3 * product}});
  }
}

// --- Images --------------------------------------------------------------------------------------

void add_images(std::vector<KernelCase>& cases, const Size& s) {
  const int64_t side = 14, B = std::max<int64_t>(1, s.rows / (side * side));
  const Shape images = {B, side, side, s.channels};
  const double ne = double(images.size()) * s.e;
  cases.push_back({.ladder = "depthwise_conv",
                   .rung = "7 x 7",
                   .shape = images,
                   .inputs = {{images}},
                   .declare =
                       [=](Parameters& p) {
                         p.add("weight", {s.channels, 1, 7, 7}, Init::gaussian(0.1));
                         p.add("bias", {s.channels}, Init::zeros());
                       },
                   .run =
                       [](Tape& tape, const Inputs& x, Parameters& p) {
                         return depthwise_conv(tape, x[0], p.find("weight"), &p.find("bias"));
                       },
                   .forward = {2 * ne},
                   .backward = {3 * ne}});
  const int64_t width = std::max<int64_t>(8, s.channels / 4);
  const Shape narrow = {B, side, side, width};
  const double n = double(narrow.size()), products = 2 * n * 9 * double(width);
  cases.push_back(
      {.ladder = "conv",
       .rung = "3 x 3",
       .shape = narrow,
       .inputs = {{narrow}},
       .declare =
           [=](Parameters& p) {
             p.add("weight", {width, width, 3, 3}, Init::gaussian(0.02));
           },
       .run = [](Tape& tape, const Inputs& x,
                 Parameters& p) { return conv(tape, x[0], p.find("weight"), nullptr, 1, 1); },
       .forward = {2 * n * s.e, products},
       .backward = {3 * n * s.e, 2 * products}});
}

// --- The optimizer -------------------------------------------------------------------------------

// Reads gradient, master, m and v, writes the last three: 28 bytes a parameter, and 2 for the bf16
// copy. Clipping reads the gradients once more before.
void add_adamw(std::vector<KernelCase>& cases, int64_t n, DType dtype) {
  for (const bool clip : {false, true}) {
    const double bytes = 28 + (dtype == DType::bf16 ? 2 : 0) + (clip ? 4 : 0);
    cases.push_back({.ladder = "adamw",
                     .rung = clip ? "clipped" : "flat buffer",
                     .shape = {n},
                     .body =
                         [=](Device device, DType type, int) {
                           const auto p = std::make_shared<Parameters>();
                           p->add("weight", {n}, Init::gaussian(0.02), true);
                           p->allocate(device, type, 1);
                           fill_random(device, accumulator_of(type), p->gradients(), n);
                           const auto adamw = std::make_shared<AdamW>(
                               *p, AdamWOptions{.max_norm = clip ? 1.0f : 0.0f});
                           return [p, adamw](int) { adamw->step(1e-4f); };
                         },
                     .forward = {bytes * double(n)}});
  }
}

}  // namespace

KernelShapes kernel_shapes(Device device) {
  switch (device) {
    case Device::cuda:
      return {{8192, 65536}, {768, 4096}, 1024, 50257};
    case Device::cpu:
      return {{4096}, {768}, 256, 8192};
    case Device::emulated:
      return {{32}, {64}, 16, 96};
  }
  fail("unknown device");
}

std::vector<KernelCase> kernel_cases(const KernelShapes& shapes, DType dtype) {
  require(!shapes.rows.empty() && !shapes.channels.empty(), "bench kernels needs a shape");
  const double e = double(size_of(dtype));
  std::vector<KernelCase> cases;
  for (const int64_t channels : shapes.channels) {
    for (const int64_t rows : shapes.rows) {
      require(rows > 1 && channels > 0 && shapes.tokens > 0 && shapes.vocabulary > 1,
              "bench kernels can't use the shape ", rows, " x ", channels);
      const Size s{rows, channels, e};
      add_norms(cases, s);
      add_elementwise(cases, s);
    }
  }
  const Size s{shapes.rows[0], shapes.channels[0], e};
  add_matmuls(cases, s.rows, s.channels, 4 * s.channels, e);
  add_linears(cases, s);
  add_mlp(cases, s);
  for (const int64_t D : {64, 128}) add_attention(cases, s, shapes.tokens, D);
  add_rope(cases, s, shapes.tokens);
  add_text_ends(cases, s, shapes.vocabulary);
  add_images(cases, s);
  add_adamw(cases, s.rows * s.channels * 4, dtype);
  std::stable_sort(cases.begin(), cases.end(), [](const KernelCase& a, const KernelCase& b) {
    return a.products() < b.products();
  });
  return cases;
}

std::vector<std::string> kernel_ladders() {
  std::vector<std::string> names;
  for (const KernelCase& c : kernel_cases(kernel_shapes(Device::emulated), DType::f32)) {
    if (std::find(names.begin(), names.end(), c.ladder) == names.end()) names.push_back(c.ladder);
  }
  return names;
}

const char* name_of(Direction direction) {
  return direction == Direction::forward ? "forward" : "backward";
}

std::vector<int64_t> dims_of(const Shape& shape) {
  std::vector<int64_t> dims;
  for (int i = 0; i < shape.rank(); ++i) dims.push_back(shape[i]);
  return dims;
}

std::vector<KernelCase> chosen_kernels(const KernelChoice& choice, Device device, DType dtype) {
  const std::vector<std::string> known = kernel_ladders();
  for (const std::string& name : choice.ladders) {
    std::string all;
    for (const std::string& k : known) all += (all.empty() ? "" : ", ") + k;
    require(std::find(known.begin(), known.end(), name) != known.end(), "unknown kernel '", name,
            "'; choose of ", all);
  }
  KernelShapes shapes = kernel_shapes(device);
  if (!choice.rows.empty()) shapes.rows = choice.rows;
  if (!choice.channels.empty()) shapes.channels = choice.channels;
  if (choice.tokens) shapes.tokens = choice.tokens;
  if (choice.vocabulary) shapes.vocabulary = choice.vocabulary;
  std::vector<KernelCase> cases = kernel_cases(shapes, dtype);
  if (choice.ladders.empty()) return cases;
  std::erase_if(cases, [&](const KernelCase& c) {
    return !std::count(choice.ladders.begin(), choice.ladders.end(), c.ladder);
  });
  return cases;
}

}  // namespace dyt
