// Ten classes of 32 x 32 RGB images, drawn by arithmetic: nothing to download, so every experiment
// runs on every machine. Six shapes (disk, ring, triangle, square, hourglass, cross) and four
// textures (stripes, checkerboard, dots, grid) in random position, size, rotation and colour, with
// clutter behind, a bar in front, uneven light and noise. Colours are drawn alike for all classes,
// and the mirror image of a class is the same class.
#pragma once
#include <cstddef>
#include <cstdint>

#include "datasets/images.h"

namespace dyt {

// How hard the set is. Lengths are in pixels, colours and noise in units of full brightness.
struct SyntheticDifficulty {
  double noise = 0.08;                         // standard deviation, every pixel and channel
  double min_contrast = 0.3;                   // object's mean of R, G, B above the background's
  double inverted = 0.05;                      // probability that the object is the darker one
  double min_radius = 9.5, max_radius = 13.0;  // size of the object
  double min_period = 6.0, max_period = 9.0;   // size of a texture's repeating cell
  double max_shift = 2.5;                      // of the object's centre from the image's
  double max_rotation = 0.06;                  // either way, in turns
  double max_stretch = 0.1;                    // sides longer and shorter by this share
  double occlusion = 0.3;                      // probability of a bar across the image
  double min_bar = 2.0, max_bar = 5.0;         // width of that bar
  int max_clutter = 4;                         // small blobs behind the object: 0 .. this
  double shading = 0.2;                        // light at the edges: 1 - this .. 1 + this
};

inline constexpr size_t synthetic_train_size = 10000, synthetic_test_size = 2000;

// `count` images of the split that `split_seed` names. Image i has class i % 10 and depends on
// (split_seed, i, difficulty) alone: a longer set begins with the shorter one, bit for bit, on
// every machine and for every number of threads. mean and std are left at 0 and 1.
// Throws Error if min_contrast is above 0.6, where two random colours hardly ever qualify.
ImageDataset make_synthetic(size_t count, uint64_t split_seed,
                            const SyntheticDifficulty& difficulty = {});

// The train and test splits, with mean and std set. 0 takes the default sizes above.
ImageSplits load_synthetic(size_t train_count = 0, size_t test_count = 0);

}  // namespace dyt
