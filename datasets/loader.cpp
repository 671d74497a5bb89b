#include "datasets/loader.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "core/clock.h"
#include "core/error.h"

namespace dyt {
namespace {

constexpr std::array<float, 3> imagenet_mean = {0.485f, 0.456f, 0.406f};
constexpr std::array<float, 3> imagenet_std = {0.229f, 0.224f, 0.225f};

}  // namespace

// --- Where images come from ----------------------------------------------------------------------

MemorySource::MemorySource(const ImageDataset& dataset) : dataset_(dataset) {
  name = dataset.name;
  height = dataset.height, width = dataset.width, channels = dataset.channels;
  class_names = dataset.class_names;
  mean = dataset.mean, std = dataset.std;
}

bool MemorySource::read(uint32_t n, const Augment* augment, uint64_t seed, uint64_t epoch,
                        Image& image, std::string&) const {
  image = take_image(dataset_, augment, seed, epoch, n);
  return true;
}

FolderSource::FolderSource(ImageFiles files, int size) : files_(std::move(files)) {
  require(size > 0, "images can't be made ", size, " pixels wide");
  name = std::filesystem::path(files_.folder).parent_path().filename().string();
  height = width = size, channels = 3;
  class_names = files_.class_names;
  mean = imagenet_mean, std = imagenet_std;
}

bool FolderSource::read(uint32_t n, const Augment* augment, uint64_t seed, uint64_t epoch,
                        Image& image, std::string& why) const {
  const std::optional<Image> whole = decode_image(files_.files[n], why);
  if (!whole) {
    why = files_.files[n] + ": " + why;
    return false;
  }
  if (augment && augment->resized_crop) {
    const Box part = random_part(*augment, whole->height, whole->width, seed, epoch, n);
    image = resize_bicubic(*whole, part, height, width);
  } else {
    image = evaluation_view(*whole, height);
  }
  return true;
}

ImageSources open_images(const std::string& spec, const FolderOptions& options, size_t train_limit,
                         size_t test_limit) {
  ImageSources sources;
  if (spec.starts_with("folder:") && spec.size() > 7) {
    FolderFiles lists = list_folder(spec.substr(7), train_limit, test_limit);
    const int stored = common_size(lists.train), size = options.size > 0 ? options.size : stored;
    require_size(size, lists.train);
    const size_t count = lists.train.files.size() + lists.test.files.size();
    if (stored != size || count * size * size * 3 > options.memory) {
      sources.train = std::make_unique<FolderSource>(std::move(lists.train), size);
      sources.test = std::make_unique<FolderSource>(std::move(lists.test), size);
      return sources;
    }
  }
  sources.memory =
      std::make_unique<ImageSplits>(load_images(spec, train_limit, test_limit, options));
  sources.train = std::make_unique<MemorySource>(sources.memory->train);
  sources.test = std::make_unique<MemorySource>(sources.memory->test);
  return sources;
}

// --- The loader ----------------------------------------------------------------------------------

ImageLoader::ImageLoader(const ImageSource& source, const LoaderOptions& options)
    : source_(source),
      options_(options),
      augment_(options.training && options_.augment ? &*options_.augment : nullptr),
      thread_count_(options.threads > 0
                        ? options.threads
                        : std::max(1, int(std::thread::hardware_concurrency()) - 1)),
      normalise_(source.channels, source.mean, source.std),
      making_(options.first_batch),
      taken_(options.first_batch) {
  const size_t N = source.size();
  require(options.batch > 0, "the batch size must be positive, not ", options.batch);
  require(N > 0 && N <= UINT32_MAX, "the dataset ", source.name, " has ", N, " images");
  require(!options.training || size_t(options.batch) <= N, "a batch of ", options.batch,
          " is more than the ", N, " images of ", source.name);
  require(options.ahead >= 2, "at least 2 batches must be in the making, not ", options.ahead);
  require(options.first_batch >= 0, "there is no batch ", options.first_batch);
  require(options.label_smoothing >= 0 && options.label_smoothing <= 1,
          "label smoothing is a share in [0, 1], not ", options.label_smoothing);
  check(options.mix);
  if (augment_) check(*augment_);
  batches_ = int64_t(N) / options.batch;
  if (!options.training) batches_ += int64_t(N) % options.batch != 0;
  slots_.resize(size_t(options.ahead));
  threads_.reserve(size_t(thread_count_));
  try {
    for (int i = 0; i < thread_count_; ++i) threads_.emplace_back([this] { work(); });
  } catch (const std::system_error& e) {  // that many may be more than the system has
    require(!threads_.empty(), "no thread can be started to make batches: ", e.what());
  }
}

ImageLoader::~ImageLoader() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_to_do_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

const ImageBatch* ImageLoader::next() {
  std::unique_lock lock(mutex_);
  if (holding_) {  // the consumer is done with the last one: its slot is free
    holding_ = false;
    work_to_do_.notify_all();
  }
  if (!options_.training && taken_ >= batches_) return nullptr;
  Slot& slot = slots_[size_t(taken_ % options_.ahead)];
  const auto available = [&] { return error_ || (making_ > taken_ && slot.ready); };
  if (!available()) {
    const double start = seconds_now();
    batch_ready_.wait(lock, available);
    seconds_waited_ += seconds_now() - start;
  }
  if (error_) std::rethrow_exception(error_);
  slot.ready = false;
  holding_ = true;
  ++taken_;
  return &slot.batch;
}

std::vector<std::string> ImageLoader::skipped() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> all;
  for (const auto& [n, why] : skipped_) all.push_back(why);
  return all;
}

// Under the lock: batch `number` gets its slot.
void ImageLoader::begin_batch(Slot& slot, int64_t number) {
  slot.batch.count = options_.batch;
  if (options_.training) {
    if (order_epoch_ != epoch_of(number)) {
      order_epoch_ = epoch_of(number);
      order_ = std::make_shared<const std::vector<uint32_t>>(
          epoch_order(source_.size(), options_.seed, uint64_t(order_epoch_)));
    }
    slot.order = order_;
  } else {
    slot.batch.count =
        std::min<int64_t>(options_.batch, int64_t(source_.size()) - number * options_.batch);
  }
  slot.done = 0;
  slot.missing.assign(size_t(slot.batch.count), 0);
  slot.batch.images.resize(size_t(slot.batch.count * image_size()));
  slot.batch.labels.resize(size_t(slot.batch.count));
}

// A worker: takes a few images of the batch in the making, and whoever makes a batch's last image
// finishes it.
void ImageLoader::work() {
  try {
    std::unique_lock lock(mutex_);
    for (;;) {
      const auto may_begin = [&] {
        const bool free_slot = making_ < taken_ - holding_ + options_.ahead;
        return free_slot && (options_.training || making_ < batches_);
      };
      work_to_do_.wait(lock, [&] { return stop_ || may_begin(); });
      if (stop_) return;
      const int64_t number = making_, begin = next_image_;
      Slot& slot = slots_[size_t(number % options_.ahead)];
      if (begin == 0) begin_batch(slot, number);
      const int64_t share = slot.batch.count / (4 * thread_count_);
      const int64_t end = std::min(slot.batch.count, begin + std::clamp<int64_t>(share, 1, 16));
      next_image_ = end;
      if (end == slot.batch.count) ++making_, next_image_ = 0;
      lock.unlock();
      make_images(slot, number, begin, end);
      lock.lock();
      slot.done += end - begin;
      if (slot.done < slot.batch.count) continue;
      lock.unlock();
      finish(slot, number);
      lock.lock();
      slot.ready = true;
      batch_ready_.notify_all();
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::current_exception();
    stop_ = true;
    work_to_do_.notify_all();
    batch_ready_.notify_all();
  }
}

void ImageLoader::make_images(Slot& slot, int64_t number, int64_t begin, int64_t end) {
  const uint64_t epoch = uint64_t(epoch_of(number));
  const int64_t first = (options_.training ? number % batches_ : number) * options_.batch;
  Image image;
  for (int64_t b = begin; b < end; ++b) {
    uint32_t n = uint32_t(slot.order ? (*slot.order)[size_t(first + b)] : size_t(first + b));
    if (!read(n, epoch, image)) {
      slot.missing[size_t(b)] = 1;
      continue;
    }
    finish_image(image, augment_, normalise_, options_.seed, epoch, n,
                 slot.batch.images.data() + b * image_size());
    slot.batch.labels[size_t(b)] = source_.label(n);
  }
}

// Reads image n, or in training the next one that can be decoded, which n then is.
bool ImageLoader::read(uint32_t& n, uint64_t epoch, Image& image) {
  std::string why;
  for (size_t attempt = 0; attempt < source_.size(); ++attempt) {
    if (source_.read(n, augment_, options_.seed, epoch, image, why)) return true;
    require(!options_.strict, "cannot decode ", why);
    {
      const std::lock_guard lock(mutex_);
      skipped_.emplace(n, why);
    }
    if (!options_.training) return false;
    n = uint32_t((size_t(n) + 1) % source_.size());
  }
  fail("none of the ", source_.size(), " images of ", source_.name,
       " can be decoded; the last: ", why);
}

void ImageLoader::finish(Slot& slot, int64_t number) {
  ImageBatch& batch = slot.batch;
  int64_t kept = 0;
  for (int64_t b = 0; b < batch.count; ++b) {
    if (slot.missing[size_t(b)]) continue;
    if (kept != b) {
      std::copy_n(batch.images.data() + b * image_size(), image_size(),
                  batch.images.data() + kept * image_size());
      batch.labels[size_t(kept)] = batch.labels[size_t(b)];
    }
    ++kept;
  }
  batch.count = kept;
  batch.images.resize(size_t(kept * image_size()));
  batch.labels.resize(size_t(kept));
  if (!options_.training || !options_.mix.on()) return;
  const MixDraw draw = draw_mix(options_.mix, source_.height, source_.width, options_.seed,
                                uint64_t(epoch_of(number)), uint32_t(number % batches_));
  mix_images(draw, kept, source_.height, source_.width, source_.channels, batch.images.data());
  batch.targets.resize(size_t(kept * source_.classes()));
  mix_labels(draw, batch.labels, source_.classes(), options_.label_smoothing, batch.targets.data());
}

}  // namespace dyt
