// Batches made ahead: worker threads read, decode and augment the next batches while the device
// works on this one. Batches come in order, and their bits don't depend on the number of threads.
//
//     ImageSources data = open_images("folder:imagenette2-160", {.size = 160});
//     ImageLoader loader(*data.train, {.batch = 64, .seed = 1, .augment = augment});
//     for (;;) { const ImageBatch& batch = *loader.next(); ... }
#pragma once
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "datasets/augment.h"
#include "datasets/folder.h"
#include "datasets/images.h"

namespace dyt {

// A split of a dataset, in memory or as files.
class ImageSource {
 public:
  virtual ~ImageSource() = default;
  virtual size_t size() const = 0;
  virtual int32_t label(uint32_t n) const = 0;
  // Image n as bytes (H, W, C): the part that a resized crop takes if `augment` has one, else as
  // evaluation sees it. False, and why, if it can't be decoded. Called by many threads at once.
  virtual bool read(uint32_t n, const Augment* augment, uint64_t seed, uint64_t epoch, Image& image,
                    std::string& why) const = 0;

  std::string name;
  int height = 0, width = 0, channels = 0;
  std::vector<std::string> class_names;
  std::array<float, 3> mean{}, std{1, 1, 1};
  int classes() const { return int(class_names.size()); }
};

// The dataset must live as long as the source.
class MemorySource : public ImageSource {
 public:
  explicit MemorySource(const ImageDataset& dataset);
  size_t size() const override { return dataset_.size(); }
  int32_t label(uint32_t n) const override { return dataset_.labels[n]; }
  bool read(uint32_t n, const Augment* augment, uint64_t seed, uint64_t epoch, Image& image,
            std::string& why) const override;

 private:
  const ImageDataset& dataset_;
};

// Files, decoded whenever they are asked for. Mean and standard deviation are ImageNet's, as is the
// custom, rather than those of all pixels, which would have to be decoded first.
class FolderSource : public ImageSource {
 public:
  FolderSource(ImageFiles files, int size);
  size_t size() const override { return files_.files.size(); }
  int32_t label(uint32_t n) const override { return files_.labels[n]; }
  bool read(uint32_t n, const Augment* augment, uint64_t seed, uint64_t epoch, Image& image,
            std::string& why) const override;

 private:
  ImageFiles files_;
};

struct ImageSources {
  std::unique_ptr<ImageSplits> memory;  // null if they are files
  std::unique_ptr<ImageSource> train, test;
};

// As load_images; but a folder goes into memory only if its images have the size asked for, and
// fit. Otherwise it stays files: the resized crop then finds images as large as they are.
ImageSources open_images(const std::string& spec, const FolderOptions& options = {},
                         size_t train_limit = 0, size_t test_limit = 0);

struct ImageBatch {
  int64_t count = 0;            // B
  std::vector<float> images;    // (B, H, W, C), normalised
  std::vector<int32_t> labels;  // (B)
  std::vector<float> targets;   // (B, K) if the loader mixes, else empty; label smoothing included
};

struct LoaderOptions {
  int batch = 100;
  uint64_t seed = 0;
  // Training goes through the images in a new random order every epoch, without end; what is left
  // of an epoch after its last full batch is left out. Evaluation takes them once, in their order,
  // the last batch being smaller, and neither augments nor mixes.
  bool training = true;
  std::optional<Augment> augment = {};  // none: images as evaluation sees them
  Mix mix = {};
  float label_smoothing = 0;  // of the mixed targets; without mixing, the loss does it
  int64_t first_batch = 0;    // where a resumed run goes on
  int threads = 0;            // 0: one for every core but one, at least one
  int ahead = 4;              // batches in the making or ready, at least 2
  bool strict = false;        // a file that can't be decoded is an Error
};

// In training the place of an image that can't be decoded is taken by the next one in the dataset
// that can, so that batches stay full; in evaluation it is left out, and the
// batch is smaller, or even empty.
class ImageLoader {
 public:
  ImageLoader(const ImageSource& source, const LoaderOptions& options);  // Error on bad options
  ~ImageLoader();
  ImageLoader(const ImageLoader&) = delete;
  ImageLoader& operator=(const ImageLoader&) = delete;

  // The next batch, valid until the next call; null after evaluation's last. Throws the Error of a
  // worker.
  const ImageBatch* next();

  int64_t batches() const { return batches_; }               // of an epoch
  double seconds_waited() const { return seconds_waited_; }  // in next(), for workers
  std::vector<std::string> skipped() const;                  // "FILE: why", each once

 private:
  struct Slot {  // a batch in the making
    ImageBatch batch;
    std::shared_ptr<const std::vector<uint32_t>> order;  // of the epoch; null: evaluation
    int64_t done = 0;                                    // images
    std::vector<char> missing;                           // images that evaluation leaves out
    bool ready = false;
  };
  void work();
  void make_images(Slot& slot, int64_t number, int64_t begin, int64_t end);
  bool read(uint32_t& n, uint64_t epoch, Image& image);
  void finish(Slot& slot, int64_t number);
  void begin_batch(Slot& slot, int64_t number);
  int64_t epoch_of(int64_t number) const { return options_.training ? number / batches_ : 0; }
  int64_t image_size() const { return int64_t(source_.height) * source_.width * source_.channels; }

  const ImageSource& source_;
  const LoaderOptions options_;
  const Augment* augment_;  // null: none
  const int thread_count_;
  Normalise normalise_;
  int64_t batches_ = 0;
  double seconds_waited_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable work_to_do_, batch_ready_;
  std::vector<Slot> slots_;  // batch i is in slot i % ahead
  int64_t making_ = 0;       // the batch whose images are being given out to workers
  int64_t next_image_ = 0;   // of it
  int64_t taken_ = 0;        // the batch that next() returns next
  bool holding_ = false;     // batch taken_ - 1 is still with the consumer
  bool stop_ = false;
  std::exception_ptr error_;
  std::shared_ptr<const std::vector<uint32_t>> order_;
  int64_t order_epoch_ = -1;
  std::map<uint32_t, std::string> skipped_;
  std::vector<std::thread> threads_;
};

}  // namespace dyt
