// The blocks of config.Mixer and the options of the attention backends: the same fields by the same
// names. What a block leaves out keeps the value that the options have, the backend's default.
#pragma once

#include <string>
#include <vector>

#include "attention/latent_mixer.h"
#include "attention/linear/linear_mixer_options.h"
#include "attention/softmax_mixer.h"
#include "launch/config.pb.h"

namespace longship {

// Overwrites the options with the fields that are set in the block. Returns a line for each value
// that names no choice of its field.
std::vector<std::string> read_block(const config::Attention& block, SoftmaxMixerOptions& options);
std::vector<std::string> read_block(const config::LatentAttention& block,
                                    LatentMixerOptions& options);
std::vector<std::string> read_block(const config::LinearAttention& block,
                                    LinearMixerOptions& options);

// Sets every field of the block.
void write_block(const SoftmaxMixerOptions& options, config::Attention& block);
void write_block(const LatentMixerOptions& options, config::LatentAttention& block);
void write_block(const LinearMixerOptions& options, config::LinearAttention& block);

}  // namespace longship
