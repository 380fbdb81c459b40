// TFRecord framing: length, masked CRC of the length, data, masked CRC of the data; little-endian.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace longship {

// CRC-32C (Castagnoli, RFC 3720).
uint32_t crc32c(std::string_view bytes);
// Rotated and shifted as TFRecord wants it, so that a CRC stored in data does not check itself.
uint32_t masked_crc32c(std::string_view bytes);

// One framed record.
std::string tf_record(std::string_view data);

}  // namespace longship
