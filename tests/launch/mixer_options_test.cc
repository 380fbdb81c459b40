#include "launch/mixer_options.h"

#include <gtest/gtest.h>

namespace longship {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

void expect_every_field_is_set(const Message& block) {
  for (int i = 0; i < block.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = block.GetDescriptor()->field(i);
    EXPECT_TRUE(block.GetReflection()->HasField(block, field)) << field->full_name();
  }
}

TEST(MixerOptions, EveryFieldOfABlockIsAnOption) {
  config::Attention attention;
  write_block(SoftmaxMixerOptions(), attention);
  expect_every_field_is_set(attention);
  config::LatentAttention latent;
  write_block(LatentMixerOptions(), latent);
  expect_every_field_is_set(latent);
  config::LinearAttention linear;
  write_block(LinearMixerOptions(), linear);
  expect_every_field_is_set(linear);
}

// What the manual says is what a mixer gets.
TEST(MixerOptions, DefaultsOfTheSchemaAreThoseOfTheOptions) {
  config::Attention attention;
  write_block(SoftmaxMixerOptions(), attention);
  attention.clear_num_heads();
  EXPECT_EQ(attention.num_kv_heads(), config::Attention().num_kv_heads());
  EXPECT_EQ(attention.rope_theta(), config::Attention().rope_theta());
  EXPECT_EQ(attention.qk_norm(), config::Attention().qk_norm());
  EXPECT_EQ(attention.window(), config::Attention().window());
  config::LatentAttention latent;
  write_block(LatentMixerOptions(), latent);
  EXPECT_EQ(latent.q_lora_rank(), config::LatentAttention().q_lora_rank());
  EXPECT_EQ(latent.kv_lora_rank(), config::LatentAttention().kv_lora_rank());
  EXPECT_EQ(latent.qk_nope_head_size(), config::LatentAttention().qk_nope_head_size());
  EXPECT_EQ(latent.qk_rope_head_size(), config::LatentAttention().qk_rope_head_size());
  EXPECT_EQ(latent.v_head_size(), config::LatentAttention().v_head_size());
  EXPECT_EQ(latent.rope_theta(), config::LatentAttention().rope_theta());
}

TEST(MixerOptions, BlocksOfEveryFamilyComeBackAsTheyWere) {
  for (const LinearFamily& family : linear_families()) {
    config::LinearAttention written, again;
    write_block(family.options, written);
    LinearMixerOptions read;
    EXPECT_TRUE(read_block(written, read).empty());
    write_block(read, again);
    EXPECT_EQ(written.SerializeAsString(), again.SerializeAsString()) << family.name;
    EXPECT_EQ(read.gate, family.options.gate);
    EXPECT_EQ(read.output_norm, family.options.output_norm);
  }
}

TEST(MixerOptions, WhatABlockLeavesOutKeepsItsDefault) {
  config::LinearAttention block;
  block.set_max_beta(2);
  block.set_output_gate("sigmoid");
  LinearMixerOptions options = LinearMixerOptions::for_backend("gated_delta");
  EXPECT_TRUE(read_block(block, options).empty());
  EXPECT_EQ(options.max_beta, 2);
  EXPECT_EQ(options.output_gate, OutputGate::kSigmoid);
  EXPECT_EQ(options.conv_size, 4);
  EXPECT_EQ(options.gate, GateLaw::kSoftplus);
}

TEST(MixerOptions, WrongChoicesAreNamedWithTheRightOnes) {
  config::LinearAttention block;
  block.set_gate("sigmoidal");
  block.set_qk_norm("");
  LinearMixerOptions options;
  const auto problems = read_block(block, options);
  ASSERT_EQ(problems.size(), 2u);
  EXPECT_NE(problems[0].find("qk_norm `` is none of none, l2, rms"), std::string::npos);
  EXPECT_NE(problems[1].find("gate `sigmoidal` is none of"), std::string::npos);
}

}  // namespace
}  // namespace longship
