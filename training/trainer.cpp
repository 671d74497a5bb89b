#include "training/trainer.h"

#include <iostream>

#include "core/clock.h"
#include "training/schedule.h"

namespace dyt {
namespace {

const TrainOptions& checked(const TrainOptions& o) {
  require(o.steps > 0, "steps must be positive, not ", o.steps);
  require(o.batch > 0, "the batch size must be positive, not ", o.batch);
  require(o.accumulate > 0 && o.batch % o.accumulate == 0, "a batch of ", o.batch,
          " can't be computed in ", o.accumulate, " equal parts");
  require(o.warmup >= 0 && o.warmup < o.steps, "warm-up (", o.warmup,
          " steps) must be shorter than the run (", o.steps, " steps)");
  return o;
}

double learning_rate(const TrainOptions& o, int64_t step) {
  if (o.inverse_sqrt_from > 0) {
    return InverseSqrtSchedule{o.lr, o.warmup, o.inverse_sqrt_from}(step);
  }
  return CosineSchedule{o.lr, o.lr_floor, o.warmup, o.steps}(step);
}

}  // namespace

Trainer::Trainer(Parameters& parameters, const TrainOptions& options)
    : parameters_(parameters),
      options_(checked(options)),
      tape_(parameters.device(), parameters.dtype(), options.seed) {
  if (options.sgd) {
    require(options.checkpoint.save.empty() && options.checkpoint.resume.empty(),
            "a checkpoint holds AdamW's moments; a run with SGD can't be saved or resumed");
    sgd_ = std::make_unique<Sgd>(parameters, *options.sgd);
  } else {
    adamw_ = std::make_unique<AdamW>(parameters, options.adamw);
  }
  if (options.ema_decay > 0) {
    average_ = std::make_unique<WeightAverage>(parameters, options.ema_decay);
  }
  if (options.checkpoint.resume.empty()) return;
  state_ = load_checkpoint(options.checkpoint, {parameters_, *adamw_, average_.get()});
}

// One update; the batch's mean loss, or 0 if it is not to be read (which waits for the device).
double Trainer::train_step(const TrainTask& task, int64_t step, bool read_loss) {
  const int parts = options_.accumulate;
  parameters_.zero_gradients();
  double sum = 0;
  for (int64_t part = step * parts; part < (step + 1) * parts; ++part) {
    tape_.begin(uint64_t(part));
    const Tensor loss = task.loss(tape_, part);
    tape_.backward(loss, 1.0 / parts);
    if (read_loss) sum += double(host_floats(tape_, loss)[0]) / parts;
  }
  const float lr = float(learning_rate(options_, step));
  if (sgd_) {
    sgd_->step(lr);
  } else {
    adamw_->step(lr);
  }
  if (average_) average_->update();
  return sum;
}

// Evaluates, with the average of the weights too if there is one.
void Trainer::look(const TrainTask& task, bool last) {
  Evaluation e = task.evaluate(tape_, last);
  if (average_) {
    const WithAverage with(average_.get());
    const Evaluation a = task.evaluate(tape_, last);
    e.average_loss = a.test_loss, e.average_accuracy = a.test_accuracy;
  }
  e.step = state_.step;
  e.train_loss = state_.losses ? state_.loss_sum / double(state_.losses) : std::nan("");
  state_.loss_sum = 0, state_.losses = 0;
  state_.curve.push_back(e);
}

// A checkpoint that can't be written (a full disk) is not worth losing the run for, except at its
// end: there may be room again next time.
void Trainer::save(bool last) {
  try {
    save_checkpoint(options_.checkpoint, state_, {parameters_, *adamw_, average_.get()});
  } catch (const Error& e) {
    if (last) throw;
    std::cerr << "\ndyt: " << e.what() << "; training goes on\n";
  }
}

TrainResult Trainer::run(const TrainTask& task, const ShowProgress& show) {
  const CheckpointOptions& checkpoint = options_.checkpoint;
  // Reading a loss waits for the device.
  const int64_t loss_every = parameters_.device() == Device::cuda ? 10 : 1;
  const int64_t first = state_.step;
  const double before = state_.seconds, start = seconds_now();
  TrainResult result;
  double lately = state_.curve.empty() ? 0 : state_.curve.back().train_loss;
  while (state_.step < options_.steps) {
    const int64_t step = state_.step;
    const bool last = step + 1 == options_.steps, read = step % loss_every == 0 || last;
    const double loss = train_step(task, step, read);
    if (read) {
      if (!(loss <= options_.diverged_above)) {
        result.diverged_at = step;
        break;
      }
      state_.loss_sum += loss, ++state_.losses;
    }
    if (state_.losses) lately = state_.loss_sum / double(state_.losses);
    ++state_.step;
    const bool looks = options_.evaluate_every > 0 && state_.step % options_.evaluate_every == 0;
    if (last || looks) look(task, last);
    const double seconds = seconds_now() - start, done = double(state_.step - first);
    state_.seconds = before + seconds;
    const bool saves = checkpoint.every > 0 ? state_.step % checkpoint.every == 0 : looks;
    if (!checkpoint.save.empty() && (last || saves)) save(last);
    if (options_.after_step) options_.after_step(state_.step, tape_);
    if (show) {
      Progress progress{.step = state_.step, .steps = options_.steps, .loss = lately};
      if (!state_.curve.empty()) progress.last = state_.curve.back();
      progress.curve = state_.curve;
      progress.samples = task.samples;
      progress.samples_per_second = done * double(task.samples_per_step) / seconds;
      progress.seconds_left = seconds / done * double(options_.steps - state_.step);
      show(progress);
    }
  }
  result.curve = state_.curve;
  result.samples = state_.step * task.samples_per_step;
  result.seconds = before + seconds_now() - start;
  result.arena_bytes = tape_.arena().capacity();
  return result;
}

}  // namespace dyt
