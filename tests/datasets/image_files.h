// Makes image files for tests.
#pragma once
#include <string>

#include "datasets/pixels.h"

namespace dyt {

// The bytes of a file. `quality` 1 .. 100.
std::string jpeg_bytes(const Image& image, int quality = 95);
std::string png_bytes(const Image& image);

// One colour all over.
Image flat_image(int height, int width, Color color);

}  // namespace dyt
