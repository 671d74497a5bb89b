#include "datasets/pixels.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace dyt {
namespace {

// --- Scaling -------------------------------------------------------------------------------------

// Keys' cubic convolution kernel with a = -0.5 (IEEE Trans. ASSP 29, 1981).
double cubic(double x) {
  x = std::fabs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * -0.5;
  return 0;
}

// Weights are integers, in units of 2^-22: a sum of bytes times weights stays below 2^31 although
// some weights are negative.
constexpr int weight_bits = 22;

// The samples that make one sample of the result, along one axis.
struct Taps {
  int first = 0;
  std::vector<int32_t> weights;
};

// Taps for samples [begin, begin + count) of `size` samples in all, from `from` samples.
std::vector<Taps> taps_for(int from, int size, int begin, int count) {
  const double scale = double(from) / size, stretch = std::max(scale, 1.0), support = 2 * stretch;
  std::vector<Taps> all(size_t(count), Taps{});
  std::vector<double> weights;
  for (int i = 0; i < count; ++i) {
    const double centre = (begin + i + 0.5) * scale;
    const int first = std::max(0, int(centre - support + 0.5));
    const int last = std::min(from, int(centre + support + 0.5));
    weights.clear();
    double sum = 0;
    for (int k = first; k < last; ++k) {
      weights.push_back(cubic((k - centre + 0.5) * (1 / stretch)));
      sum += weights.back();
    }
    Taps& taps = all[size_t(i)];
    taps.first = first;
    for (const double weight : weights) {
      const double units = (sum != 0 ? weight / sum : weight) * (1 << weight_bits);
      taps.weights.push_back(int32_t(units < 0 ? units - 0.5 : units + 0.5));
    }
  }
  return all;
}

uint8_t rounded_sum(int32_t sum) {  // of a sum that began with one half
  return uint8_t(std::clamp(sum >> weight_bits, 0, 255));
}
constexpr int32_t half = 1 << (weight_bits - 1);

// Rows [top, top + rows) of the crop, scaled horizontally.
template <int C>
Image scale_rows(const Image& image, const Box& crop, const std::vector<Taps>& columns, int top,
                 int rows) {
  Image result(rows, int(columns.size()), C);
  for (int y = 0; y < rows; ++y) {
    const uint8_t* from = image.row(crop.top + top + y) + size_t(crop.left) * C;
    uint8_t* to = result.row(y);
    for (const Taps& taps : columns) {
      int32_t sum[C];
      std::fill_n(sum, C, half);
      const uint8_t* pixel = from + size_t(taps.first) * C;
      for (const int32_t weight : taps.weights) {
        for (int c = 0; c < C; ++c) sum[c] += weight * *pixel++;
      }
      for (int c = 0; c < C; ++c) *to++ = rounded_sum(sum[c]);
    }
  }
  return result;
}

void check_box(const char* what, const Box& box, int height, int width) {
  require(box.height > 0 && box.width > 0 && box.top >= 0 && box.left >= 0 &&
              box.top + box.height <= height && box.left + box.width <= width,
          "resize: the ", what, " of ", box.height, " x ", box.width, " pixels at (", box.top, ", ",
          box.left, ") does not lie in an image of ", height, " x ", width);
}

// --- Tables and blends ---------------------------------------------------------------------------

using Table = std::array<uint8_t, 256>;

// table(c) makes the table of channel c; `f` of a value.
template <class F>
Table table_of(const F& f) {
  Table table;
  for (int v = 0; v < 256; ++v) table[size_t(v)] = uint8_t(f(v));
  return table;
}
void map_values(Image& image, int channel, const Table& table) {
  for (size_t i = size_t(channel); i < image.pixels.size(); i += size_t(image.channels)) {
    image.pixels[i] = table[image.pixels[i]];
  }
}
void map_values(Image& image, const Table& table) {
  for (uint8_t& v : image.pixels) v = table[v];
}

std::array<uint32_t, 256> histogram(const Image& image, int channel) {
  std::array<uint32_t, 256> count{};
  for (size_t i = size_t(channel); i < image.pixels.size(); i += size_t(image.channels)) {
    ++count[image.pixels[i]];
  }
  return count;
}

// The luma of ITU-R 601-2 in units of 2^-16.
uint8_t grey(const uint8_t* rgb) {
  return uint8_t((rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u + 0x8000u) >> 16);
}

// from + factor (to - from), towards zero, in [0, 255]. As Pillow has it, product and sum are
// rounded to f32; the doubles, which hold both exactly, see to it that a fused multiply-add does no
// less.
uint8_t blend(int from, int to, float factor) {
  const float product = float(double(factor) * (to - from));
  const float v = float(double(from) + double(product));
  return v <= 0 ? 0 : v >= 255 ? 255 : uint8_t(v);
}

// --- Interpolation -------------------------------------------------------------------------------

// Cubic convolution with a = -1 through four equally spaced values; d from the second to the third.
double between(double a, double b, double c, double e, double d) {
  return b + d * ((c - a) + d * ((2 * (a - b) + c - e) + d * (b - a + e - c)));
}

// Pixel (y, x) of the image: the coordinates of its centre are (y + 0.5, x + 0.5).
void sample(const Image& image, double y, double x, uint8_t* out) {
  const int C = image.channels;
  y -= 0.5, x -= 0.5;
  const int y0 = int(std::floor(y)), x0 = int(std::floor(x));
  const double dy = y - y0, dx = x - x0;
  const uint8_t* rows[4];
  int columns[4];
  for (int k = 0; k < 4; ++k) {
    rows[k] = image.row(std::clamp(y0 - 1 + k, 0, image.height - 1));
    columns[k] = std::clamp(x0 - 1 + k, 0, image.width - 1) * C;
  }
  const auto along = [&](const uint8_t* row, int c) {
    if (dx == 0) return double(row[columns[1] + c]);
    return between(row[columns[0] + c], row[columns[1] + c], row[columns[2] + c],
                   row[columns[3] + c], dx);
  };
  for (int c = 0; c < C; ++c) {
    const double v = dy == 0 ? along(rows[1], c)
                             : between(along(rows[0], c), along(rows[1], c), along(rows[2], c),
                                       along(rows[3], c), dy);
    out[c] = v <= 0 ? 0 : v >= 255 ? 255 : uint8_t(v);
  }
}

}  // namespace

Image resize_bicubic(const Image& image, const Box& crop, int height, int width,
                     const Box& window) {
  check_box("crop", crop, image.height, image.width);
  check_box("window", window, height, width);
  const std::vector<Taps> columns = taps_for(crop.width, width, window.left, window.width);
  const std::vector<Taps> rows = taps_for(crop.height, height, window.top, window.height);
  const int top = rows.front().first;  // the rows of the crop that are needed
  const int count = rows.back().first + int(rows.back().weights.size()) - top;
  const Image wide = image.channels == 1 ? scale_rows<1>(image, crop, columns, top, count)
                                         : scale_rows<3>(image, crop, columns, top, count);
  Image result(window.height, window.width, image.channels);
  const size_t n = size_t(window.width) * image.channels;
  std::vector<int32_t> sums(n);
  for (int y = 0; y < window.height; ++y) {
    const Taps& taps = rows[size_t(y)];
    std::fill(sums.begin(), sums.end(), half);
    for (size_t k = 0; k < taps.weights.size(); ++k) {
      const uint8_t* from = wide.row(taps.first - top + int(k));
      for (size_t i = 0; i < n; ++i) sums[i] += taps.weights[k] * from[i];
    }
    uint8_t* to = result.row(y);
    for (size_t i = 0; i < n; ++i) to[i] = rounded_sum(sums[i]);
  }
  return result;
}

Image resize_bicubic(const Image& image, const Box& crop, int height, int width) {
  return resize_bicubic(image, crop, height, width, {0, 0, height, width});
}

namespace pixels {

void flip_left_right(Image& image) {
  const int C = image.channels;
  for (int y = 0; y < image.height; ++y) {
    uint8_t* row = image.row(y);
    for (int x = 0; x < image.width / 2; ++x) {
      std::swap_ranges(row + x * C, row + (x + 1) * C, row + (image.width - 1 - x) * C);
    }
  }
}

void invert(Image& image) {
  for (uint8_t& v : image.pixels) v = uint8_t(255 - v);
}

void posterize(Image& image, int bits) {
  const int mask = bits >= 8 ? 255 : ~((1 << (8 - bits)) - 1) & 255;
  for (uint8_t& v : image.pixels) v = uint8_t(v & mask);
}

void solarize(Image& image, int threshold) {
  map_values(image, table_of([&](int v) { return v < threshold ? v : 255 - v; }));
}

void solarize_add(Image& image, int add, int threshold) {
  map_values(image, table_of([&](int v) { return v < threshold ? std::min(255, v + add) : v; }));
}

void auto_contrast(Image& image) {
  for (int c = 0; c < image.channels; ++c) {
    const auto count = histogram(image, c);
    int low = 0, high = 255;
    while (low < 255 && count[size_t(low)] == 0) ++low;
    while (high > 0 && count[size_t(high)] == 0) --high;
    if (high <= low) continue;
    const double scale = 255.0 / (high - low), offset = -low * scale;
    map_values(image, c,
               table_of([&](int v) { return std::clamp(int(v * scale + offset), 0, 255); }));
  }
}

void equalize(Image& image) {
  for (int c = 0; c < image.channels; ++c) {
    const auto count = histogram(image, c);
    uint32_t total = 0, last = 0, values = 0;
    for (const uint32_t n : count) {
      if (n == 0) continue;
      total += n, last = n, ++values;
    }
    const uint32_t step = (total - last) / 255;  // pixels per value of the result
    if (values <= 1 || step == 0) continue;
    uint32_t below = step / 2;
    map_values(image, c, table_of([&](int v) {
                 const uint32_t value = below / step;
                 below += count[size_t(v)];
                 return std::min(value, 255u);
               }));
  }
}

void brightness(Image& image, float factor) {
  map_values(image, table_of([&](int v) { return blend(0, v, factor); }));
}

void contrast(Image& image, float factor) {
  const int C = image.channels;
  uint64_t sum = 0;
  for (size_t i = 0; i < image.pixels.size(); i += size_t(C)) {
    sum += C == 3 ? grey(&image.pixels[i]) : image.pixels[i];
  }
  const double mean = double(sum) / double(image.pixels.size() / size_t(C));
  map_values(image, table_of([&](int v) { return blend(int(mean + 0.5), v, factor); }));
}

void color(Image& image, float factor) {
  if (image.channels != 3) return;
  for (size_t i = 0; i < image.pixels.size(); i += 3) {
    uint8_t* rgb = &image.pixels[i];
    const int without = grey(rgb);
    for (int c = 0; c < 3; ++c) rgb[c] = blend(without, rgb[c], factor);
  }
}

// The smoothed image: weights 1 1 1, 1 5 1, 1 1 1 over 13; the border stays as it is.
void sharpness(Image& image, float factor) {
  const Image original = image;
  const int C = image.channels;
  for (int y = 1; y + 1 < image.height; ++y) {
    for (int i = C; i < (image.width - 1) * C; ++i) {
      int sum = 4 * original.row(y)[i];
      for (int dy = -1; dy <= 1; ++dy) {
        const uint8_t* row = original.row(y + dy);
        sum += row[i - C] + row[i] + row[i + C];
      }
      image.row(y)[i] = blend((2 * sum + 13) / 26, original.row(y)[i], factor);
    }
  }
}

void affine(Image& image, const Affine& m, Color fill) {
  const Image original = image;
  for (int y = 0; y < image.height; ++y) {
    uint8_t* out = image.row(y);
    for (int x = 0; x < image.width; ++x, out += image.channels) {
      const double cx = x + 0.5, cy = y + 0.5;
      const double from_x = m[0] * cx + m[1] * cy + m[2], from_y = m[3] * cx + m[4] * cy + m[5];
      if (from_x < 0 || from_x >= image.width || from_y < 0 || from_y >= image.height) {
        std::copy_n(fill.data(), image.channels, out);
      } else {
        sample(original, from_y, from_x, out);
      }
    }
  }
}

void rotate(Image& image, double degrees, Color fill) {
  // Pillow takes the angle modulo 360 and rounds cosine and sine to 15 places.
  const double angle =
      -(degrees - 360 * std::floor(degrees / 360)) * (3.14159265358979323846 / 180);
  const auto rounded = [](double v) { return std::round(v * 1e15) / 1e15; };
  const double c = rounded(std::cos(angle)), s = rounded(std::sin(angle));
  const double x = image.width / 2.0, y = image.height / 2.0;
  affine(image, {c, s, c * -x + s * -y + x, -s, c, -s * -x + c * -y + y}, fill);
}

}  // namespace pixels
}  // namespace dyt
