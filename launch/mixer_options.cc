#include "launch/mixer_options.h"

#include <algorithm>
#include <string_view>

#include "runtime/error.h"

namespace longship {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// The names of an enumeration's values, in their order.
template <class Choice>
struct Names;

template <>
struct Names<QkNorm> {
  static constexpr std::string_view all[] = {"none", "l2", "rms"};
};
template <>
struct Names<GateLaw> {
  static constexpr std::string_view all[] = {"none",    "constant",    "softplus",
                                             "bounded", "log_sigmoid", "forget"};
};
template <>
struct Names<DecayLaw> {
  static constexpr std::string_view all[] = {"alibi", "lightning", "retention"};
};
template <>
struct Names<OutputNorm> {
  static constexpr std::string_view all[] = {"none", "head", "group", "full"};
};
template <>
struct Names<OutputGate> {
  static constexpr std::string_view all[] = {"none", "silu", "sigmoid"};
};

// visit(name, field) for every field that a block can set. `Options` may be const.
template <class Options, class Visit>
void visit_softmax(Options& o, Visit&& visit) {
  visit("num_heads", o.num_heads);
  visit("num_kv_heads", o.num_kv_heads);
  visit("head_size", o.head_size);
  visit("rope_theta", o.rope_theta);
  visit("rotary_dim", o.rotary_dim);
  visit("window", o.window);
  visit("qkv_bias", o.qkv_bias);
  visit("output_bias", o.output_bias);
  visit("qk_norm", o.qk_norm);
  visit("output_gate", o.output_gate);
  visit("causal", o.causal);
  visit("num_sink_tokens", o.num_sink_tokens);
  visit("anchor", o.anchor);
  visit("sink_logits", o.sink_logits);
  visit("qk_norm_across_heads", o.qk_norm_across_heads);
}

template <class Options, class Visit>
void visit_latent(Options& o, Visit&& visit) {
  visit("num_heads", o.num_heads);
  visit("q_lora_rank", o.q_lora_rank);
  visit("kv_lora_rank", o.kv_lora_rank);
  visit("qk_nope_head_size", o.qk_nope_head_size);
  visit("qk_rope_head_size", o.qk_rope_head_size);
  visit("v_head_size", o.v_head_size);
  visit("rope_theta", o.rope_theta);
}

template <class Options, class Visit>
void visit_linear(Options& o, Visit&& visit) {
  visit("num_heads", o.num_heads);
  visit("num_key_heads", o.num_key_heads);
  visit("key_size", o.key_size);
  visit("value_size", o.value_size);
  visit("conv_size", o.conv_size);
  visit("conv_bias", o.conv_bias);
  visit("silu_qk", o.silu_qk);
  visit("silu_v", o.silu_v);
  visit("qk_norm", o.qk_norm);
  visit("rope_theta", o.rope_theta);
  visit("rotary_dim", o.rotary_dim);
  visit("taylor_map", o.taylor_map);
  visit("normalized", o.normalized);
  visit("scale", o.scale);
  visit("gate", o.gate);
  visit("gate_per_key", o.gate_per_key);
  visit("gate_rank", o.gate_rank);
  visit("gate_bias", o.gate_bias);
  visit("gate_normalizer", o.gate_normalizer);
  visit("gate_lower_bound", o.gate_lower_bound);
  visit("forget_floor", o.forget_floor);
  visit("decay", o.decay);
  visit("rate_low", o.rate_low);
  visit("rate_high", o.rate_high);
  visit("delta_rule", o.delta_rule);
  visit("max_beta", o.max_beta);
  visit("step_size", o.step_size);
  visit("step_low", o.step_low);
  visit("step_high", o.step_high);
  visit("skip", o.skip);
  visit("output_norm", o.output_norm);
  visit("norm_eps", o.norm_eps);
  visit("output_gate", o.output_gate);
  visit("norm_before_gate", o.norm_before_gate);
  visit("output_gate_rank", o.output_gate_rank);
  visit("output_gate_bias", o.output_gate_bias);
}

const FieldDescriptor& field_of(const Message& block, const char* name) {
  const FieldDescriptor* field = block.GetDescriptor()->FindFieldByName(name);
  LONGSHIP_CHECK(field != nullptr, "{} has no field {}", block.GetTypeName(), name);
  return *field;
}

// Takes the fields of a block that are set.
struct ReadField {
  const Message& block;
  std::vector<std::string>& problems;

  bool is_set(const char* name) const {
    return block.GetReflection()->HasField(block, &field_of(block, name));
  }
  void operator()(const char* name, int64_t& value) const {
    if (is_set(name)) value = block.GetReflection()->GetInt64(block, &field_of(block, name));
  }
  void operator()(const char* name, double& value) const {
    if (is_set(name)) value = block.GetReflection()->GetDouble(block, &field_of(block, name));
  }
  void operator()(const char* name, bool& value) const {
    if (is_set(name)) value = block.GetReflection()->GetBool(block, &field_of(block, name));
  }
  template <class Choice>
  void operator()(const char* name, Choice& value) const {
    if (!is_set(name)) return;
    const std::string text = block.GetReflection()->GetString(block, &field_of(block, name));
    const auto& names = Names<Choice>::all;
    const auto found = std::find(std::begin(names), std::end(names), text);
    if (found == std::end(names))
      problems.push_back(fmt::format("{} `{}` is none of {}", name, text, fmt::join(names, ", ")));
    else
      value = static_cast<Choice>(found - std::begin(names));
  }
};

// Sets the fields of a block.
struct WriteField {
  Message& block;

  void operator()(const char* name, int64_t value) const {
    block.GetReflection()->SetInt64(&block, &field_of(block, name), value);
  }
  void operator()(const char* name, double value) const {
    block.GetReflection()->SetDouble(&block, &field_of(block, name), value);
  }
  void operator()(const char* name, bool value) const {
    block.GetReflection()->SetBool(&block, &field_of(block, name), value);
  }
  template <class Choice>
  void operator()(const char* name, Choice value) const {
    block.GetReflection()->SetString(&block, &field_of(block, name),
                                     std::string(Names<Choice>::all[static_cast<size_t>(value)]));
  }
};

}  // namespace

std::vector<std::string> read_block(const config::Attention& block, SoftmaxMixerOptions& options) {
  std::vector<std::string> problems;
  visit_softmax(options, ReadField{block, problems});
  return problems;
}

std::vector<std::string> read_block(const config::LatentAttention& block,
                                    LatentMixerOptions& options) {
  std::vector<std::string> problems;
  visit_latent(options, ReadField{block, problems});
  return problems;
}

std::vector<std::string> read_block(const config::LinearAttention& block,
                                    LinearMixerOptions& options) {
  std::vector<std::string> problems;
  visit_linear(options, ReadField{block, problems});
  return problems;
}

void write_block(const SoftmaxMixerOptions& options, config::Attention& block) {
  visit_softmax(options, WriteField{block});
}

void write_block(const LatentMixerOptions& options, config::LatentAttention& block) {
  visit_latent(options, WriteField{block});
}

void write_block(const LinearMixerOptions& options, config::LinearAttention& block) {
  visit_linear(options, WriteField{block});
}

}  // namespace longship
