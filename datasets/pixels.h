// An 8-bit image and what augmentation does to it. The operations are Pillow's, to the bit (the
// fixture of tests/reference/make_augment.py was made by Pillow and timm), because "RandAugment"
// and "bicubic" in a recipe mean what that library does.
//
// Everything is computed in integers, or in floating point without fused multiply-add (the Makefile
// sees to that), so an image comes out the same on every machine.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace dyt {

struct Image {
  int height = 0, width = 0, channels = 3;  // channels: 3, red green blue, or 1
  std::vector<uint8_t> pixels;              // (H, W, C)

  Image() = default;
  Image(int height, int width, int channels)
      : height(height),
        width(width),
        channels(channels),
        pixels(size_t(height) * width * channels) {}
  const uint8_t* row(int y) const { return pixels.data() + size_t(y) * width * channels; }
  uint8_t* row(int y) { return pixels.data() + size_t(y) * width * channels; }
};

// A rectangle of pixels.
struct Box {
  int top = 0, left = 0, height = 0, width = 0;
  bool operator==(const Box&) const = default;
};

// A colour; an image with one channel uses the first.
using Color = std::array<uint8_t, 3>;

// The part `crop` of an image, scaled to height x width: cubic convolution (a = -0.5) whose width
// grows with the factor of reduction, so that what is too fine for the result does not alias; rows
// first, then columns. Only the part `window` of the result is computed and returned.
// Throws Error if a box is empty or reaches over its image.
Image resize_bicubic(const Image& image, const Box& crop, int height, int width, const Box& window);
Image resize_bicubic(const Image& image, const Box& crop, int height, int width);

// In place. The image must have pixels.
namespace pixels {

void flip_left_right(Image& image);

// Each channel by a table of its values.
void invert(Image& image);
void posterize(Image& image, int bits);                         // keeps the upper 0 .. 8 bits
void solarize(Image& image, int threshold);                     // inverts values from there on
void solarize_add(Image& image, int add, int threshold = 128);  // adds to values below
void auto_contrast(Image& image);                               // darkest to 0, brightest to 255
void equalize(Image& image);                                    // as flat a histogram as can be

// Blends with black, with the mean grey, with the grey image, with a smoothed image. factor 1
// changes nothing, 0 gives the other image, above 1 leads away from it.
void brightness(Image& image, float factor);
void contrast(Image& image, float factor);
void color(Image& image, float factor);
void sharpness(Image& image, float factor);

// The result's pixel centre (x, y) shows the original's m[0] x + m[1] y + m[2], m[3] x + m[4] y +
// m[5], interpolated by cubic convolution (a = -1); outside the original, `fill`.
using Affine = std::array<double, 6>;
void affine(Image& image, const Affine& m, Color fill);
void rotate(Image& image, double degrees, Color fill);  // about the centre, counter-clockwise

}  // namespace pixels
}  // namespace dyt
