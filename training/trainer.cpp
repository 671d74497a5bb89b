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
      tape_(parameters.device(), parameters.dtype(), options.seed),
      step_(parameters, tape_, options.accumulate, options.graphs) {
  if (options.sgd) {
    optimizer_ = std::make_unique<Sgd>(parameters, *options.sgd);
  } else {
    optimizer_ = std::make_unique<AdamW>(parameters, options.adamw);
  }
  if (options.ema_decay > 0) {
    average_ = std::make_unique<WeightAverage>(parameters, options.ema_decay);
  }
  if (options.checkpoint.resume.empty()) return;
  state_ = load_checkpoint(options.checkpoint, {parameters_, *optimizer_, average_.get()});
}

// One update; its loss is sent off.
void Trainer::train_step(const TrainTask& task, int64_t step) {
  const float lr = float(learning_rate(options_, step));
  optimizer_->prepare(lr);
  if (average_) average_->prepare();
  step_.run(step, task.work, [this, step] {
    // What the first pass made of alpha (NormSpec::calibrate) is where the average begins, too.
    if (average_ && step == 0) average_->restart();
    optimizer_->update();
    if (average_) average_->update();
  });
  step_.send_loss();
  losses_of_.push_back(step);
}

// Reads all losses sent but the newest `still_on_their_way`. If one shows that the run has
// diverged: false, and result.diverged_at.
bool Trainer::receive_losses(size_t still_on_their_way, TrainResult& result) {
  while (losses_of_.size() > still_on_their_way) {
    const int64_t step = losses_of_.front();
    losses_of_.pop_front();
    const double loss = step_.receive_loss();
    if (!(loss <= options_.diverged_above)) {  // also if NaN
      result.diverged_at = state_.step = step;
      return false;
    }
    state_.loss_sum += loss, ++state_.losses;
  }
  return true;
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
    save_checkpoint(options_.checkpoint, state_, {parameters_, *optimizer_, average_.get()});
  } catch (const std::exception& e) {
    if (last) throw;
    std::cerr << "\ndyt: " << e.what() << "; training goes on\n";
  }
}

TrainResult Trainer::run(const TrainTask& task, const ShowProgress& show) {
  const CheckpointOptions& checkpoint = options_.checkpoint;
  // Reading a loss at once would wait for the device; two steps later it is there.
  const size_t late = parameters_.device() == Device::cpu ? 0 : 2;
  const int64_t first = state_.step;
  const double before = state_.seconds, start = seconds_now();
  TrainResult result;
  double lately = state_.curve.empty() ? 0 : state_.curve.back().train_loss;
  const bool over = state_.step >= options_.steps;  // resumed at its end
  if (over && !checkpoint.save.empty() && checkpoint.save != checkpoint.resume) save(true);
  while (state_.step < options_.steps) {
    const int64_t step = state_.step;
    const auto due = [&](int64_t every) { return every > 0 && (step + 1) % every == 0; };
    const bool last = step + 1 == options_.steps, looks = due(options_.evaluate_every);
    const bool saves = checkpoint.every > 0 ? due(checkpoint.every) : looks;
    train_step(task, step);
    if (!receive_losses(last || looks || saves ? 0 : late, result)) break;
    if (state_.losses) lately = state_.loss_sum / double(state_.losses);
    ++state_.step;
    if (last || looks) look(task, last);
    const double seconds = seconds_now() - start, done = double(state_.step - first);
    state_.seconds = before + seconds;
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
  result.steps_repeated = step_.repeated();
  result.graph_problem = step_.problem();
  return result;
}

}  // namespace dyt
