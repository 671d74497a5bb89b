// Fingerprints of data: what tells one dataset from another of the same name and size.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "datasets/images.h"

namespace dyt {

// FNV-1a, eight bytes at a time: fast. `hash` is that of what came before.
inline uint64_t fingerprint(const void* data, size_t bytes, uint64_t hash = 0xcbf29ce484222325) {
  const auto* at = static_cast<const unsigned char*>(data);
  for (size_t i = 0; i < bytes; i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, at + i, std::min<size_t>(8, bytes - i));
    hash = (hash ^ word) * 0x100000001b3;
    hash ^= hash >> 29;
  }
  return hash;
}

inline uint64_t fingerprint(const ImageDataset& data) {
  const uint64_t hash = fingerprint(data.images.data(), data.images.size());
  return fingerprint(data.labels.data(), data.labels.size() * sizeof data.labels[0], hash);
}

inline uint64_t fingerprint(const std::vector<uint16_t>& tokens) {
  return fingerprint(tokens.data(), tokens.size() * sizeof tokens[0]);
}

}  // namespace dyt
