// One training step, over and over: zero the gradients, forward, backward, update. On a GPU it is
// recorded as one CUDA graph (core/graph.h) once its memory has settled, and repeated from then on.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/graph.h"
#include "core/parameters.h"
#include "core/tape.h"
#include "training/feed.h"

namespace dyt {

enum class Graphs { automatic, on, off };  // automatic: on a GPU

Graphs parse_graphs(const std::string& name);  // "auto", "on", "off"; Error otherwise

// What is trained on what.
struct StepWork {
  // Part `part` of the run's batches: part = parts * step + 0, 1, ... Called in order; the arrays
  // must stay until the next call.
  std::function<HostBatch(int64_t part)> batch = nullptr;
  // Mean loss over it. It may read nothing from the device, and a function of what it is given and
  // of tape.random() only: a recorded step does not call it. (In the first step, which is never
  // recorded, norms may set alpha by what they read.)
  std::function<Tensor(Tape& tape, const DeviceBatch& batch)> loss = nullptr;
};

class TrainingStep {
 public:
  // A batch is computed in `parts` parts, one after the other. The tape and the parameters are of
  // one device.
  TrainingStep(Parameters& parameters, Tape& tape, int parts, Graphs graphs);

  // Step `step`. `update`, called after the backward pass, changes the parameters by kernels alone;
  // what differs from step to step in it must have been put on the device before.
  void run(int64_t step, const StepWork& work, const std::function<void()>& update);

  // The loss of the last step is sent off, and received later, the oldest first.
  void send_loss() { losses_sent_.send(losses_.data(), loss_type_, parts_); }
  size_t losses_waiting() const { return losses_sent_.waiting(); }
  double receive_loss();

  int64_t repeated() const { return repeated_; }           // steps that were a graph's
  const std::string& problem() const { return problem_; }  // why there can be no graph, if so

 private:
  // A step on batches of certain shapes at certain addresses. Once it has needed no new memory, the
  // next one like it can be recorded, and the record holds until the arena changes.
  struct Kind {
    std::vector<DeviceBatch> batches;  // of the parts
    int64_t settled = -1;              // the arena's generation when it needed no more; -1: not yet
    Graph graph;
  };
  void compute(int64_t step, const StepWork& work, const std::function<void()>& update);
  void send_batches(int64_t step, const StepWork& work);
  Kind* kind_of_step();
  bool repeat(Kind& kind, int64_t step, const StepWork& work, const std::function<void()>& update);

  Parameters& parameters_;
  Tape& tape_;
  const int parts_;
  bool graphs_;
  Feed feed_;
  std::vector<const DeviceBatch*> batches_;  // of the parts
  Buffer losses_;                            // of the parts
  DType loss_type_ = DType::f32;
  Readout losses_sent_;
  Buffer first_stream_;  // what the step adds to the streams of random numbers
  std::vector<std::unique_ptr<Kind>> kinds_;
  int64_t repeated_ = 0;
  std::string problem_;
};

}  // namespace dyt
