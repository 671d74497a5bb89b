#include "datasets/synthetic.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <set>

#include "tests/datasets/expect_error.h"

namespace dyt {
namespace {

enum { disk, ring, triangle, square, hourglass, cross, stripes, checkerboard, dots, grid };

// FNV-1a, 64 bits.
uint64_t checksum(const std::vector<uint8_t>& bytes) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const uint8_t byte : bytes) hash = (hash ^ byte) * 0x100000001b3;
  return hash;
}

// Nothing random but colours, size and where a texture starts.
constexpr SyntheticDifficulty plain{.noise = 0,
                                    .inverted = 0,
                                    .max_shift = 0,
                                    .max_rotation = 0,
                                    .max_stretch = 0,
                                    .occlusion = 0,
                                    .max_clutter = 0,
                                    .shading = 0};

double brightness(const uint8_t* image, int y, int x) {
  const uint8_t* p = image + (y * 32 + x) * 3;
  return (p[0] + p[1] + p[2]) / (3 * 255.0);
}

// One plain image as true where the object is. The object is the brighter of the two colours.
struct Mask {
  bool at[32][32];
  explicit Mask(const uint8_t* image) {
    double low = 1, high = 0;
    for (int i = 0; i < 32 * 32; ++i) {
      low = std::min(low, brightness(image, 0, i)), high = std::max(high, brightness(image, 0, i));
    }
    for (int y = 0; y < 32; ++y) {
      for (int x = 0; x < 32; ++x) at[y][x] = brightness(image, y, x) > 0.5 * (low + high);
    }
  }
  int changes_in_row(int y) const {
    int changes = 0;
    for (int x = 1; x < 32; ++x) changes += at[y][x] != at[y][x - 1];
    return changes;
  }
  int changes_in_column(int x) const {
    int changes = 0;
    for (int y = 1; y < 32; ++y) changes += at[y][x] != at[y - 1][x];
    return changes;
  }
  int width_of_row(int y) const { return int(std::count(at[y], at[y] + 32, true)); }
  double share_near_centre() const {
    int inside = 0;
    for (int y = 8; y < 24; ++y) inside += int(std::count(at[y] + 8, at[y] + 24, true));
    return inside / 256.0;
  }
};

// The share of the object near the centre, on average: phases and sizes differ from image to image.
double average_share(const std::vector<Mask>& masks) {
  double sum = 0;
  for (const Mask& m : masks) sum += m.share_near_centre();
  return sum / double(masks.size());
}

// The masks of the first 20 plain images of a class.
std::vector<Mask> masks_of(int label) {
  const ImageDataset set = make_synthetic(200, 5, plain);
  std::vector<Mask> masks;
  for (size_t i = label; i < set.size(); i += 10) masks.emplace_back(set.image(i));
  return masks;
}

// Found equal with g++ -O0, g++ -O3 -march=native and clang++ -O3. A change of the images, meant or
// not, changes these numbers, and with them every result measured on the synthetic set.
TEST(Synthetic, FirstImagesAreTheSameOnEveryMachine) {
  const ImageSplits splits = load_synthetic(1000, 1000);
  EXPECT_EQ(checksum(splits.train.images), 0xacf2c81fd185d1af);
  EXPECT_EQ(checksum(splits.test.images), 0xb0c8b594e057e353);
}

TEST(Synthetic, AnImageDependsOnNeitherTheCountNorTheThreads) {
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const ImageDataset one = make_synthetic(101, 3);
  omp_set_num_threads(3);
  const ImageDataset three = make_synthetic(101, 3), fewer = make_synthetic(40, 3);
  omp_set_num_threads(threads);
  EXPECT_EQ(one.images, three.images);
  EXPECT_EQ(one.labels, three.labels);
  EXPECT_TRUE(std::equal(fewer.images.begin(), fewer.images.end(), one.images.begin()));
}

TEST(Synthetic, DefaultSizesAndBalancedClasses) {
  const ImageSplits splits = load_synthetic();
  EXPECT_EQ(splits.train.size(), 10000u);
  EXPECT_EQ(splits.test.size(), 2000u);
  std::vector<int> count(10);
  for (size_t i = 0; i < 100; ++i) ++count[splits.train.labels[i]];
  EXPECT_EQ(count, std::vector<int>(10, 10));
}

TEST(Synthetic, NoImageIsInBothSplitsOrTwiceInOne) {
  const ImageSplits splits = load_synthetic(3000, 2000);
  std::set<uint64_t> seen;
  for (const ImageDataset* set : {&splits.train, &splits.test}) {
    for (size_t i = 0; i < set->size(); ++i) {
      seen.insert(checksum({set->image(i), set->image(i) + set->image_size()}));
    }
  }
  EXPECT_EQ(seen.size(), 5000u);
}

TEST(Synthetic, ShapesAreWhatTheirNamesSay) {
  for (const Mask& m : masks_of(disk)) {
    EXPECT_TRUE(m.at[16][16] && m.at[11][11] && m.at[20][20]);
    EXPECT_FALSE(m.at[5][5] || m.at[26][26]);
    EXPECT_EQ(m.changes_in_row(16), 2);
  }
  for (const Mask& m : masks_of(ring)) {
    EXPECT_FALSE(m.at[16][16]);
    EXPECT_EQ(m.changes_in_row(16), 4);
    EXPECT_EQ(m.changes_in_column(16), 4);
  }
  for (const Mask& m : masks_of(triangle)) {
    EXPECT_TRUE(m.at[16][16]);
    EXPECT_LT(m.width_of_row(12), m.width_of_row(16));
    EXPECT_LT(m.width_of_row(16), m.width_of_row(20));
  }
  for (const Mask& m : masks_of(square)) {
    EXPECT_TRUE(m.at[8][8] && m.at[8][23] && m.at[23][8] && m.at[23][23]);
    EXPECT_EQ(m.width_of_row(9), m.width_of_row(16));
  }
  for (const Mask& m : masks_of(hourglass)) {
    EXPECT_LT(m.width_of_row(16), m.width_of_row(11));
    EXPECT_LT(m.width_of_row(16), m.width_of_row(20));
    EXPECT_EQ(m.changes_in_row(10), 2);
  }
  for (const Mask& m : masks_of(cross)) {
    EXPECT_TRUE(m.at[16][16] && m.at[16][8] && m.at[16][23] && m.at[8][16] && m.at[23][16]);
    EXPECT_FALSE(m.at[11][11] || m.at[11][20] || m.at[20][11] || m.at[20][20]);
  }
}

TEST(Synthetic, TexturesAreWhatTheirNamesSay) {
  for (const Mask& m : masks_of(stripes)) {
    EXPECT_GE(m.changes_in_row(16), 4);
    for (int x = 8; x < 24; ++x) {
      for (int y = 8; y < 24; ++y) EXPECT_EQ(m.at[y][x], m.at[16][x]);
    }
  }
  for (const Mask& m : masks_of(checkerboard)) {
    EXPECT_GE(m.changes_in_row(16) + m.changes_in_row(12), 6);
    EXPECT_GE(m.changes_in_column(16) + m.changes_in_column(12), 6);
  }
  EXPECT_NEAR(average_share(masks_of(checkerboard)), 0.5, 0.04);
  EXPECT_NEAR(average_share(masks_of(dots)), 0.229, 0.04);  // pi 0.27^2 of a cell
  EXPECT_NEAR(average_share(masks_of(grid)), 1 - 0.7 * 0.7, 0.04);
  for (const Mask& m : masks_of(grid)) {
    int full_rows = 0, full_columns = 0;
    for (int i = 8; i < 24; ++i) {
      full_rows += std::all_of(m.at[i] + 8, m.at[i] + 24, [](bool on) { return on; });
      bool full = true;
      for (int y = 8; y < 24; ++y) full = full && m.at[y][i];
      full_columns += full;
    }
    EXPECT_GE(full_rows, 2);
    EXPECT_GE(full_columns, 2);
  }
}

TEST(Synthetic, ShapesAreTheirOwnMirrorImage) {
  const ImageDataset set = make_synthetic(200, 5, plain);
  for (size_t i = 0; i < set.size(); ++i) {
    if (set.labels[i] >= stripes) continue;  // a texture starts anywhere
    const uint8_t* image = set.image(i);
    for (int y = 0; y < 32; ++y) {
      for (int x = 0; x < 16; ++x) {
        for (int c = 0; c < 3; ++c) {
          const int left = image[(y * 32 + x) * 3 + c], right = image[(y * 32 + 31 - x) * 3 + c];
          ASSERT_LE(std::abs(left - right), 1) << "image " << i << " at " << y << " " << x;
        }
      }
    }
  }
}

// The share of test images whose features (`size` numbers) are nearest to their class's mean.
double nearest_mean_accuracy(const ImageSplits& splits, auto features, size_t size) {
  std::vector<std::vector<double>> means(10, std::vector<double>(size));
  for (size_t i = 0; i < splits.train.size(); ++i) {
    const std::vector<double> f = features(splits.train.image(i));
    for (size_t k = 0; k < size; ++k) {
      means[splits.train.labels[i]][k] += f[k] * 10 / double(splits.train.size());
    }
  }
  int correct = 0;
  for (size_t i = 0; i < splits.test.size(); ++i) {
    const std::vector<double> f = features(splits.test.image(i));
    int best = 0;
    double best_distance = 1e300;
    for (int label = 0; label < 10; ++label) {
      double distance = 0;
      for (size_t k = 0; k < size; ++k) {
        distance += (f[k] - means[label][k]) * (f[k] - means[label][k]);
      }
      if (distance < best_distance) best = label, best_distance = distance;
    }
    correct += best == splits.test.labels[i];
  }
  return correct / double(splits.test.size());
}

TEST(Synthetic, ColourDoesNotGiveTheClassAway) {
  const auto chromaticity = [](const uint8_t* image) {
    std::vector<double> sum(3);
    for (int i = 0; i < 32 * 32 * 3; ++i) sum[i % 3] += image[i];
    const double all = sum[0] + sum[1] + sum[2];
    return std::vector<double>{sum[0] / all, sum[1] / all};
  };
  EXPECT_LT(nearest_mean_accuracy(load_synthetic(4000, 2000), chromaticity, 2), 0.14);
}

TEST(Synthetic, TemplatesFindSomeOfTheClassesButFarFromAll) {
  const auto pattern = [](const uint8_t* image) {  // brightness, less its mean
    std::vector<double> f(32 * 32);
    double mean = 0;
    for (int i = 0; i < 32 * 32; ++i) mean += (f[i] = brightness(image, 0, i)) / (32 * 32);
    for (double& v : f) v -= mean;
    return f;
  };
  const double accuracy = nearest_mean_accuracy(load_synthetic(4000, 2000), pattern, 32 * 32);
  EXPECT_GT(accuracy, 0.30);  // the labels belong to the images
  EXPECT_LT(accuracy, 0.75);  // and there is something to learn
}

TEST(Synthetic, DifficultyChangesTheImages) {
  const auto differs = [](SyntheticDifficulty changed) {
    return make_synthetic(40, 5, changed).images != make_synthetic(40, 5, plain).images;
  };
  SyntheticDifficulty d = plain;
  EXPECT_FALSE(differs(d));
  EXPECT_TRUE((d = plain, d.noise = 0.1, differs(d)));
  EXPECT_TRUE((d = plain, d.inverted = 0.5, differs(d)));
  EXPECT_TRUE((d = plain, d.max_shift = 2, differs(d)));
  EXPECT_TRUE((d = plain, d.max_rotation = 0.1, differs(d)));
  EXPECT_TRUE((d = plain, d.max_stretch = 0.1, differs(d)));
  EXPECT_TRUE((d = plain, d.occlusion = 0.5, differs(d)));
  EXPECT_TRUE((d = plain, d.max_clutter = 3, differs(d)));
  EXPECT_TRUE((d = plain, d.shading = 0.3, differs(d)));
}

TEST(Synthetic, NoiseHasTheStandardDeviationAskedFor) {
  SyntheticDifficulty noisy = plain;
  noisy.noise = 0.05;
  const ImageDataset clean = make_synthetic(200, 5, plain), noise = make_synthetic(200, 5, noisy);
  double sum = 0, squares = 0, n = 0;
  for (size_t i = 0; i < clean.images.size(); ++i) {
    if (clean.images[i] < 80 || clean.images[i] > 175) continue;  // clear of 0 and 255
    const double difference = (noise.images[i] - clean.images[i]) / 255.0;
    sum += difference, squares += difference * difference, ++n;
  }
  EXPECT_NEAR(sum / n, 0, 0.001);
  EXPECT_NEAR(std::sqrt(squares / n), 0.05, 0.001);
}

TEST(Synthetic, RejectsAContrastThatNoColoursHave) {
  SyntheticDifficulty d;
  d.min_contrast = 0.9;
  expect_error([&] { make_synthetic(1, 1, d); }, {"min_contrast", "0.9", "0.6"});
}

}  // namespace
}  // namespace dyt
