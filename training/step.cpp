#include "training/step.h"

#include <algorithm>
#include <iostream>

#include "core/poison.h"

namespace dyt {

Graphs parse_graphs(const std::string& name) {
  if (name == "auto") return Graphs::automatic;
  if (name == "on") return Graphs::on;
  require(name == "off", "graphs are auto, on or off, not '", name, "'");
  return Graphs::off;
}

TrainingStep::TrainingStep(Parameters& parameters, Tape& tape, int parts, Graphs graphs)
    : parameters_(parameters),
      tape_(tape),
      parts_(parts),
      graphs_(graphs == Graphs::on ? !tape.on_cpu()
                                   : graphs == Graphs::automatic && tape.device() == Device::cuda),
      feed_(tape.device()),
      losses_(tape.device(), size_t(parts) * sizeof(double)),
      loss_type_(accumulator_of(tape.dtype())),
      losses_sent_(tape.device()),
      first_stream_(tape.device(), sizeof(uint64_t)) {}

void TrainingStep::run(int64_t step, const StepWork& work, const std::function<void()>& update) {
  if (tape_.on_cpu()) return compute(step, work, update);
  send_batches(step, work);
  const uint64_t first_stream = Tape::streams_of(uint64_t(step * parts_));
  put_on_device(tape_.device(), first_stream_.data(), &first_stream, sizeof first_stream);
  Kind* const kind = kind_of_step();
  if (kind && repeat(*kind, step, work, update)) return;
  tape_.begin(0);  // joins the arena's memory
  const int64_t generation = tape_.generation();
  compute(step, work, update);
  if (kind) kind->settled = generation == tape_.generation() ? generation : -1;
}

// All parts, before anything is computed: a graph has the whole step.
void TrainingStep::send_batches(int64_t step, const StepWork& work) {
  batches_.clear();
  for (int k = 0; k < parts_; ++k) {
    batches_.push_back(&feed_.send(work.batch(step * parts_ + k), size_t(k)));
  }
}

// Null if this step is not to be recorded.
TrainingStep::Kind* TrainingStep::kind_of_step() {
  constexpr size_t most = 32;  // with more shapes than that, some stay without
  if (!graphs_ || !problem_.empty() || tape_.observer) return nullptr;
  const auto same = [](const Tensor& a, const Tensor& b) {
    return a.data == b.data && a.shape == b.shape && a.dtype == b.dtype;
  };
  for (const auto& kind : kinds_) {
    bool equal = true;
    for (size_t k = 0; k < batches_.size(); ++k) {
      equal = equal && std::ranges::equal(*batches_[k], kind->batches[k], same);
    }
    if (equal) return kind.get();
  }
  // Where a place got more memory for a larger batch, kinds with the old address never come again.
  std::erase_if(kinds_, [&](const auto& kind) {
    for (size_t k = 0; k < batches_.size(); ++k) {
      const DeviceBatch &now = *batches_[k], &then = kind->batches[k];
      if (!now.empty() && !then.empty() && now[0].data != then[0].data) return true;
    }
    return false;
  });
  if (kinds_.size() == most) return nullptr;
  kinds_.push_back(std::make_unique<Kind>());
  for (const DeviceBatch* batch : batches_) kinds_.back()->batches.push_back(*batch);
  return kinds_.back().get();
}

// Launches the graph of such a step, recorded now if need be. False if it has to be computed.
bool TrainingStep::repeat(Kind& kind, int64_t step, const StepWork& work,
                          const std::function<void()>& update) {
  if (kind.settled != tape_.generation()) {
    kind.graph = {};
    return false;
  }
  if (!kind.graph) {
    try {
      kind.graph = Graph::record(tape_.device(), [&] { compute(step, work, update); });
    } catch (const std::exception& e) {
      problem_ = e.what();
      std::cerr << "\ndyt: training steps can't be a graph: " << problem_
                << "; training goes on without\n";
      return false;
    }
  }
  if constexpr (sanitized) tape_.arena().allow_access();
  kind.graph.launch();
  ++repeated_;
  return true;
}

void TrainingStep::compute(int64_t step, const StepWork& work,
                           const std::function<void()>& update) {
  parameters_.zero_gradients();
  for (int k = 0; k < parts_; ++k) {
    if (tape_.on_cpu()) {
      const int64_t part = step * parts_ + k;
      tape_.begin(uint64_t(part));
      batches_.assign(size_t(k) + 1, &feed_.send(work.batch(part)));
    } else {
      tape_.begin(uint64_t(k), static_cast<const uint64_t*>(first_stream_.data()));
    }
    tape_.calibrating = step == 0 && k == 0;  // which reads from the device: this one is no graph's
    const Tensor loss = work.loss(tape_, *batches_[size_t(k)]);
    tape_.calibrating = false;
    require(loss.dtype == loss_type_, "a loss is ", name_of(loss_type_), ", not ",
            name_of(loss.dtype));
    const size_t size = size_of(loss_type_);
    copy_on_device(tape_.device(), static_cast<char*>(losses_.data()) + size_t(k) * size, loss.data,
                   size);
    tape_.backward(loss, 1.0 / parts_);
  }
  update();
}

double TrainingStep::receive_loss() {
  double mean = 0;
  for (const float loss : losses_sent_.receive()) mean += double(loss) / parts_;
  return mean;
}

}  // namespace dyt
