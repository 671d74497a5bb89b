// Training image classifiers.
#pragma once
#include "datasets/loader.h"
#include "training/trainer.h"

namespace dyt {

// images (B, H, W, C) f32, normalised, to logits (B, classes)
using Forward = std::function<Tensor(Tape& tape, const Tensor& images)>;

// Trains `parameters` (allocated: their device and number type are where and how it runs) and
// returns the curve. `show`, if given, is called after every step. Error if a batch is larger than
// the train split, or as Trainer. Other threads make the batches.
TrainResult train_classifier(const Forward& forward, Parameters& parameters,
                             const ImageSources& data, const TrainOptions& options,
                             const ShowProgress& show = nullptr);
TrainResult train_classifier(const Forward& forward, Parameters& parameters,
                             const ImageSplits& data, const TrainOptions& options,
                             const ShowProgress& show = nullptr);

// Loss and accuracy over a whole split, with the tape's training flag off meanwhile. Images that
// can't be decoded don't count, and are added to `skipped` if it is given.
Evaluation evaluate_classifier(const Forward& forward, Tape& tape, const ImageSource& source,
                               const TrainOptions& options,
                               std::vector<std::string>* skipped = nullptr);
Evaluation evaluate_classifier(const Forward& forward, Tape& tape, const ImageDataset& dataset,
                               int batch);

}  // namespace dyt
