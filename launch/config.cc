#include "launch/config.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include <fstream>
#include <map>
#include <memory>
#include <sstream>

#include "runtime/error.h"

namespace longship {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using google::protobuf::TextFormat;

// Collects what the text parser reports, one line an error.
class ParseErrors : public google::protobuf::io::ErrorCollector {
 public:
  explicit ParseErrors(std::string origin) : origin_(std::move(origin)) {}
  void AddError(int line, int column, const std::string& message) override {
    text_ += fmt::format("{}{}:{}:{}: {}", text_.empty() ? "" : "\n            ", origin_, line + 1,
                         column + 1, message);
  }
  const std::string& text() const { return text_; }

 private:
  std::string origin_;
  std::string text_;
};

std::string field_names(const Descriptor& descriptor) {
  std::string names;
  for (int i = 0; i < descriptor.field_count(); ++i)
    names += (i ? ", " : "") + descriptor.field(i)->name();
  return names;
}

std::string describe_type(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
    case FieldDescriptor::CPPTYPE_INT64:
      return "a whole number";
    case FieldDescriptor::CPPTYPE_UINT32:
    case FieldDescriptor::CPPTYPE_UINT64:
      return "a whole number, 0 or more";
    case FieldDescriptor::CPPTYPE_DOUBLE:
    case FieldDescriptor::CPPTYPE_FLOAT:
      return "a number";
    case FieldDescriptor::CPPTYPE_BOOL:
      return "true or false";
    case FieldDescriptor::CPPTYPE_ENUM: {
      std::string values = "one of ";
      for (int i = 0; i < field.enum_type()->value_count(); ++i)
        values += (i ? ", " : "") + field.enum_type()->value(i)->name();
      return values;
    }
    default:
      return "text";
  }
}

std::string quoted(std::string_view value) {
  std::string text = "\"";
  for (char c : value) {
    if (c == '"' || c == '\\') text += '\\';
    text += c;
  }
  return text + "\"";
}

// The value of a singular field as text, its default when unset.
std::string value_text(const Message& message, const FieldDescriptor& field) {
  const Reflection& reflection = *message.GetReflection();
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING)
    return quoted(reflection.GetString(message, &field));
  std::string text;
  if (reflection.HasField(message, &field)) {
    TextFormat::PrintFieldValueToString(message, &field, -1, &text);
    return text;
  }
  // Printing needs a present field: set it to its default in a copy.
  std::unique_ptr<Message> copy(message.New());
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      reflection.SetInt32(copy.get(), &field, field.default_value_int32());
      break;
    case FieldDescriptor::CPPTYPE_INT64:
      reflection.SetInt64(copy.get(), &field, field.default_value_int64());
      break;
    case FieldDescriptor::CPPTYPE_UINT64:
      reflection.SetUInt64(copy.get(), &field, field.default_value_uint64());
      break;
    case FieldDescriptor::CPPTYPE_DOUBLE:
      reflection.SetDouble(copy.get(), &field, field.default_value_double());
      break;
    case FieldDescriptor::CPPTYPE_BOOL:
      reflection.SetBool(copy.get(), &field, field.default_value_bool());
      break;
    case FieldDescriptor::CPPTYPE_ENUM:
      reflection.SetEnum(copy.get(), &field, field.default_value_enum());
      break;
    default:
      LONGSHIP_CHECK(false, "config field {} has an unforeseen type", field.full_name());
  }
  TextFormat::PrintFieldValueToString(*copy, &field, -1, &text);
  return text;
}

// Whether the field has a value to show: its own, or a default that holds for every backend.
bool has_value(const Message& message, const FieldDescriptor& field) {
  return message.GetReflection()->HasField(message, &field) || field.has_default_value();
}

// Sections of a run are always there, with their defaults; blocks inside them when they are given.
bool is_present(const Message& message, const FieldDescriptor& block) {
  return message.GetDescriptor() == config::Run::descriptor() ||
         message.GetReflection()->HasField(message, &block);
}

// The elements of a repeated block, which have a field `name`.
std::vector<const Message*> elements(const Message& message, const FieldDescriptor& field) {
  const Reflection& reflection = *message.GetReflection();
  std::vector<const Message*> found;
  for (int i = 0; i < reflection.FieldSize(message, &field); ++i)
    found.push_back(&reflection.GetRepeatedMessage(message, &field, i));
  return found;
}

std::string element_name(const Message& element) {
  const FieldDescriptor* name = element.GetDescriptor()->FindFieldByName("name");
  LONGSHIP_CHECK(name != nullptr, "elements of {} have no name", element.GetTypeName());
  return element.GetReflection()->GetString(element, name);
}

// Calls visit(path, message, field) for every leaf field with a value, in the order of the schema.
template <class Visit>
void for_each_leaf(const Message& message, const std::string& prefix, const Visit& visit) {
  const Descriptor& descriptor = *message.GetDescriptor();
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const FieldDescriptor& field = *descriptor.field(i);
    const std::string path = prefix + field.name();
    if (field.is_repeated()) {
      for (const Message* element : elements(message, field))
        for_each_leaf(*element, path + "." + element_name(*element) + ".", visit);
    } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      if (is_present(message, field))
        for_each_leaf(message.GetReflection()->GetMessage(message, &field), path + ".", visit);
    } else if (has_value(message, field)) {
      visit(path, message, field);
    }
  }
}

bool is_only_field(const Message& message, const FieldDescriptor& field) {
  std::vector<const FieldDescriptor*> present;
  message.GetReflection()->ListFields(message, &present);
  return present.size() == 1 && present[0] == &field;
}

void print_message(const Message& message, int indent, std::string& text) {
  const Descriptor& descriptor = *message.GetDescriptor();
  const std::string space(static_cast<size_t>(indent), ' ');
  auto print_block = [&](const std::string& name, const Message& block) {
    text += space + name + " {\n";
    print_message(block, indent + 2, text);
    text += space + "}\n";
  };
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const FieldDescriptor& field = *descriptor.field(i);
    if (field.is_repeated()) {
      for (const Message* element : elements(message, field)) print_block(field.name(), *element);
    } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      if (is_present(message, field))
        print_block(field.name(), message.GetReflection()->GetMessage(message, &field));
    } else if (has_value(message, field)) {
      text += space + field.name() + ": " + value_text(message, field) + "\n";
    }
  }
}

// The element of a repeated block that an override calls by its name.
Message* find_element(Message& message, const FieldDescriptor& field, const std::string& name,
                      const std::string& assignment) {
  std::string names;
  const std::vector<const Message*> all = elements(message, field);
  for (size_t i = 0; i < all.size(); ++i) {
    if (element_name(*all[i]) == name)
      return message.GetReflection()->MutableRepeatedMessage(&message, &field, static_cast<int>(i));
    names += (i ? ", " : "") + element_name(*all[i]);
  }
  throw Error(ErrorCode::kConfig,
              {.what = fmt::format("--set {}", assignment),
               .expected = fmt::format("the name of a `{}` of the configuration: {}", field.name(),
                                       names.empty() ? "there is none" : names),
               .found = fmt::format("`{}`", name)});
}

// A field of a message.
struct FieldPlace {
  Message* message;
  const FieldDescriptor* field;
};

// The field at the path of an `assignment`; makes the sections on the way to it.
FieldPlace find_field(config::Run& run, const std::string& path, const std::string& assignment) {
  Message* message = &run;
  std::istringstream parts(path);
  std::string name;
  const FieldDescriptor* field = nullptr;
  std::string walked;
  while (std::getline(parts, name, '.')) {
    if (field != nullptr) {
      if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE)
        throw Error(ErrorCode::kConfig, {.what = fmt::format("--set {}", assignment),
                                         .expected = fmt::format("a path that ends at {}", walked),
                                         .found = fmt::format("{} below it", name)});
      if (field->is_repeated()) {
        message = find_element(*message, *field, name, assignment);
        field = nullptr;
        walked += "." + name;
        continue;
      }
      message = message->GetReflection()->MutableMessage(message, field);
    }
    field = message->GetDescriptor()->FindFieldByName(name);
    if (field == nullptr)
      throw Error(
          ErrorCode::kConfig,
          {.what = fmt::format("--set {}", assignment),
           .expected = fmt::format("one of: {}", field_names(*message->GetDescriptor())),
           .found = fmt::format("no field `{}`{}", name, walked.empty() ? "" : " in " + walked)});
    walked += (walked.empty() ? "" : ".") + name;
  }
  if (field == nullptr || field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE)
    throw Error(
        ErrorCode::kConfig,
        {.what = fmt::format("--set {}", assignment),
         .expected = fmt::format("a field inside `{}`", walked),
         .next = fmt::format("one of: {}", field_names(field ? *field->message_type()
                                                             : *message->GetDescriptor()))});
  return {message, field};
}

}  // namespace

config::Run parse_config(std::string_view text, const std::string& origin,
                         std::span<const std::string> overrides) {
  config::Run run;
  ParseErrors errors(origin);
  TextFormat::Parser parser;
  parser.RecordErrorsTo(&errors);
  if (!parser.ParseFromString(std::string(text), &run))
    throw Error(ErrorCode::kConfig,
                {.what = fmt::format("{} is not a run configuration", origin),
                 .expected = "Protobuf text format with the fields of launch/config.proto",
                 .found = errors.text(),
                 .next = "correct that line; the fields and their meaning are in config.proto"});
  for (const std::string& assignment : overrides) apply_override(run, assignment);
  return run;
}

config::Run load_config(const std::string& path, std::span<const std::string> overrides) {
  std::ifstream file(path);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf()))
    throw Error(ErrorCode::kConfig, {.what = fmt::format("cannot read configuration {}", path),
                                     .expected = "a readable, non-empty text file",
                                     .next = "check the path and its permissions"});
  return parse_config(text.str(), path, overrides);
}

void apply_override(config::Run& run, const std::string& assignment) {
  const size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0)
    throw Error(ErrorCode::kConfig, {.what = fmt::format("--set {}", assignment),
                                     .expected = "section.field=value",
                                     .next = "for example --set train.steps=200"});
  const std::string path = assignment.substr(0, equals);
  const std::string value = assignment.substr(equals + 1);
  const auto [message, field] = find_field(run, path, assignment);
  const bool is_text = field->cpp_type() == FieldDescriptor::CPPTYPE_STRING;
  std::unique_ptr<Message> parsed(message->New());
  ParseErrors errors("--set");
  TextFormat::Parser parser;
  parser.RecordErrorsTo(&errors);
  if (!parser.ParseFromString(field->name() + ": " + (is_text ? quoted(value) : value),
                              parsed.get()) ||
      !is_only_field(*parsed, *field))
    throw Error(ErrorCode::kConfig,
                {.what = fmt::format("--set {}", assignment),
                 .expected = fmt::format("{} for {}", describe_type(*field), path),
                 .found = quoted(value)});
  message->MergeFrom(*parsed);
}

std::string config_text(const config::Run& run) {
  std::string text;
  print_message(run, 0, text);
  return text;
}

std::vector<ConfigDifference> compare_configs(const config::Run& before, const config::Run& after) {
  auto values = [](const config::Run& run) {
    std::vector<std::pair<std::string, std::string>> found;
    for_each_leaf(run, "",
                  [&](const std::string& path, const Message& m, const FieldDescriptor& f) {
                    found.emplace_back(path, value_text(m, f));
                  });
    return found;
  };
  const auto old_values = values(before), new_values = values(after);
  const std::map<std::string, std::string> old_by_path(old_values.begin(), old_values.end());
  const std::map<std::string, std::string> new_by_path(new_values.begin(), new_values.end());
  std::vector<ConfigDifference> differences;
  for (const auto& [path, value] : old_values)
    if (!new_by_path.contains(path)) differences.push_back({path, value, kUnsetField});
  for (const auto& [path, value] : new_values) {
    const auto old_value = old_by_path.find(path);
    if (old_value == old_by_path.end()) {
      differences.push_back({path, kUnsetField, value});
    } else if (old_value->second != value) {
      differences.push_back({path, old_value->second, value});
    }
  }
  return differences;
}

}  // namespace longship
