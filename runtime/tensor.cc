#include "runtime/tensor.h"

#include <algorithm>
#include <cstring>
#include <functional>

namespace longship {
namespace {

Shape packed_strides(const Shape& shape) {
  Shape strides(shape.size());
  int64_t step = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = step;
    step *= std::max<int64_t>(shape[i], 1);
  }
  return strides;
}

// Calls row(destination offset, source offset, length) for each innermost run of a strided copy.
void for_each_run(const Shape& shape, const Shape& to_strides, const Shape& from_strides,
                  const std::function<void(int64_t, int64_t, int64_t, int64_t, int64_t)>& run) {
  if (shape.empty()) {
    run(0, 0, 1, 1, 1);
    return;
  }
  const size_t last = shape.size() - 1;
  Shape index(shape.size(), 0);
  while (true) {
    int64_t to = 0, from = 0;
    for (size_t i = 0; i < last; ++i) {
      to += index[i] * to_strides[i];
      from += index[i] * from_strides[i];
    }
    run(to, from, shape[last], to_strides[last], from_strides[last]);
    size_t axis = last;
    while (axis-- > 0) {
      if (++index[axis] < shape[axis]) break;
      index[axis] = 0;
    }
    if (axis == static_cast<size_t>(-1)) return;
  }
}

template <class To, class From>
To convert(From value) {
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else if constexpr (std::is_same_v<To, bf16> || std::is_same_v<From, bf16>) {
    return static_cast<To>(static_cast<float>(value));
  } else {
    return static_cast<To>(value);
  }
}

template <class To, class From>
void copy_strided(const Tensor& to, const Tensor& from) {
  To* to_data = to.data<To>();
  const From* from_data = from.data<From>();
  if (to.is_contiguous() && from.is_contiguous()) {
    const int64_t count = to.numel();
    for (int64_t i = 0; i < count; ++i) to_data[i] = convert<To>(from_data[i]);
    return;
  }
  for_each_run(to.shape(), to.strides(), from.strides(),
               [&](int64_t to_offset, int64_t from_offset, int64_t length, int64_t to_step,
                   int64_t from_step) {
                 for (int64_t i = 0; i < length; ++i)
                   to_data[to_offset + i * to_step] =
                       convert<To>(from_data[from_offset + i * from_step]);
               });
}

}  // namespace

struct Tensor::Storage {
  std::shared_ptr<Memory> memory;
  std::byte* data = nullptr;
  int64_t num_bytes = 0;

  Storage(std::shared_ptr<Memory> owner, int64_t bytes)
      : memory(std::move(owner)),
        data(static_cast<std::byte*>(memory->allocate(bytes))),
        num_bytes(bytes) {}
  ~Storage() { memory->release(data, num_bytes); }
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
};

int64_t num_elements(const Shape& shape) {
  int64_t count = 1;
  for (int64_t extent : shape) {
    LONGSHIP_CHECK(extent >= 0, "negative extent in shape {}", shape_string(shape));
    LONGSHIP_CHECK(!__builtin_mul_overflow(count, extent, &count), "shape {} overflows 64 bits",
                   shape_string(shape));
  }
  return count;
}

std::string shape_string(const Shape& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

Tensor Tensor::empty(const std::shared_ptr<Memory>& memory, Shape shape, DType dtype) {
  LONGSHIP_CHECK(memory != nullptr, "a tensor needs a Memory");
  Tensor tensor;
  tensor.numel_ = num_elements(shape);
  tensor.strides_ = packed_strides(shape);
  tensor.shape_ = std::move(shape);
  tensor.dtype_ = dtype;
  int64_t bytes = 0;
  LONGSHIP_CHECK(!__builtin_mul_overflow(tensor.numel_, dtype_size(dtype), &bytes),
                 "shape {} overflows 64 bits", shape_string(tensor.shape_));
  tensor.storage_ = std::make_shared<Storage>(memory, bytes);
  return tensor;
}

Tensor Tensor::zeros(const std::shared_ptr<Memory>& memory, Shape shape, DType dtype) {
  Tensor tensor = empty(memory, std::move(shape), dtype);
  tensor.fill_zero();
  return tensor;
}

template <class T>
Tensor Tensor::from(const std::shared_ptr<Memory>& memory, Shape shape, std::span<const T> values) {
  Tensor tensor = empty(memory, std::move(shape), DTypeOf<T>::value);
  LONGSHIP_CHECK(static_cast<int64_t>(values.size()) == tensor.numel(), "{} values for shape {}",
                 values.size(), shape_string(tensor.shape()));
  if (!values.empty()) std::memcpy(tensor.raw(), values.data(), values.size_bytes());
  return tensor;
}

template Tensor Tensor::from(const std::shared_ptr<Memory>&, Shape, std::span<const float>);
template Tensor Tensor::from(const std::shared_ptr<Memory>&, Shape, std::span<const bf16>);
template Tensor Tensor::from(const std::shared_ptr<Memory>&, Shape, std::span<const double>);
template Tensor Tensor::from(const std::shared_ptr<Memory>&, Shape, std::span<const int32_t>);
template Tensor Tensor::from(const std::shared_ptr<Memory>&, Shape, std::span<const int64_t>);
template Tensor Tensor::from(const std::shared_ptr<Memory>&, Shape, std::span<const uint8_t>);

int64_t Tensor::dim(int index) const {
  const int rank = this->rank();
  LONGSHIP_CHECK(index >= -rank && index < rank, "dimension {} of shape {}", index,
                 shape_string(shape_));
  return shape_[static_cast<size_t>(index < 0 ? index + rank : index)];
}

bool Tensor::is_contiguous() const {
  int64_t step = 1;
  for (size_t i = shape_.size(); i-- > 0;) {
    if (shape_[i] == 1) continue;
    if (shape_[i] == 0) return true;
    if (strides_[i] != step) return false;
    step *= shape_[i];
  }
  return true;
}

const std::shared_ptr<Memory>& Tensor::memory() const {
  LONGSHIP_CHECK(defined(), "undefined tensor");
  return storage_->memory;
}

std::byte* Tensor::raw() const {
  LONGSHIP_CHECK(defined(), "undefined tensor");
  return storage_->data + offset_ * dtype_size(dtype_);
}

Tensor Tensor::reshape(Shape shape) const {
  LONGSHIP_CHECK(is_contiguous(), "reshape needs a contiguous tensor");
  int64_t known = 1, wild = -1;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] == -1) {
      LONGSHIP_CHECK(wild < 0, "more than one -1 in reshape");
      wild = static_cast<int64_t>(i);
    } else {
      known *= shape[i];
    }
  }
  if (wild >= 0) shape[static_cast<size_t>(wild)] = known == 0 ? 0 : numel_ / known;
  LONGSHIP_CHECK(num_elements(shape) == numel_, "reshape of {} to {}", shape_string(shape_),
                 shape_string(shape));
  Tensor view = *this;
  view.strides_ = packed_strides(shape);
  view.shape_ = std::move(shape);
  return view;
}

Tensor Tensor::slice(int dim, int64_t begin, int64_t length) const {
  const int64_t extent = this->dim(dim);
  LONGSHIP_CHECK(begin >= 0 && length >= 0 && begin <= extent - length,
                 "slice [{}, {}+{}) of dimension {} of {}", begin, begin, length, dim,
                 shape_string(shape_));
  const size_t axis = static_cast<size_t>(dim < 0 ? dim + rank() : dim);
  Tensor view = *this;
  view.offset_ += begin * strides_[axis];
  view.shape_[axis] = length;
  view.numel_ = num_elements(view.shape_);
  return view;
}

Tensor Tensor::transpose(int dim_a, int dim_b) const {
  dim(dim_a), dim(dim_b);
  const size_t a = static_cast<size_t>(dim_a < 0 ? dim_a + rank() : dim_a);
  const size_t b = static_cast<size_t>(dim_b < 0 ? dim_b + rank() : dim_b);
  Tensor view = *this;
  std::swap(view.shape_[a], view.shape_[b]);
  std::swap(view.strides_[a], view.strides_[b]);
  return view;
}

Tensor Tensor::contiguous() const {
  return is_contiguous() ? *this : clone();
}

Tensor Tensor::clone() const {
  Tensor copy = empty(memory(), shape_, dtype_);
  copy.copy_from(*this);
  return copy;
}

Tensor Tensor::to(DType dtype) const {
  if (dtype == dtype_) return *this;
  Tensor copy = empty(memory(), shape_, dtype);
  copy.copy_from(*this);
  return copy;
}

void Tensor::copy_from(const Tensor& source) const {
  LONGSHIP_CHECK(shape_ == source.shape_, "copy of {} into {}", shape_string(source.shape_),
                 shape_string(shape_));
  if (numel_ == 0) return;
  if (dtype_ == source.dtype_ && is_contiguous() && source.is_contiguous()) {
    std::memmove(raw(), source.raw(), static_cast<size_t>(num_bytes()));
    return;
  }
  if (is_floating(dtype_) && is_floating(source.dtype_)) {
    dispatch_floating(dtype_, [&](auto to_tag) {
      dispatch_floating(source.dtype_, [&](auto from_tag) {
        copy_strided<decltype(to_tag), decltype(from_tag)>(*this, source);
      });
    });
    return;
  }
  LONGSHIP_CHECK(dtype_ == source.dtype_, "copy of {} into {}", dtype_name(source.dtype_),
                 dtype_name(dtype_));
  switch (dtype_) {
    case DType::kI32:
      return copy_strided<int32_t, int32_t>(*this, source);
    case DType::kI64:
      return copy_strided<int64_t, int64_t>(*this, source);
    default:
      return copy_strided<uint8_t, uint8_t>(*this, source);
  }
}

void Tensor::fill_zero() const {
  if (numel_ == 0) return;
  if (is_contiguous()) {
    std::memset(raw(), 0, static_cast<size_t>(num_bytes()));
    return;
  }
  const int64_t size = dtype_size(dtype_);
  std::byte* base = raw();
  for_each_run(shape_, strides_, strides_,
               [&](int64_t offset, int64_t, int64_t length, int64_t step, int64_t) {
                 for (int64_t i = 0; i < length; ++i)
                   std::memset(base + (offset + i * step) * size, 0, static_cast<size_t>(size));
               });
}

}  // namespace longship
