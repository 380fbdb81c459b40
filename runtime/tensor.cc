#include "runtime/tensor.h"

#include <algorithm>
#include <cstring>

#include "runtime/device_copy.h"
#include "runtime/strided_copy.h"

namespace longship {
namespace {

// `shape` has passed num_elements().
Shape packed_strides(const Shape& shape) {
  Shape strides(shape.size());
  int64_t step = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = step;
    step *= std::max<int64_t>(shape[i], 1);
  }
  return strides;
}

}  // namespace

struct Tensor::Storage {
  std::shared_ptr<Memory> memory;
  std::byte* data = nullptr;
  int64_t num_bytes = 0;
  std::vector<std::shared_ptr<const Stream>> other_streams;  // that use the elements too
  bool borrows = false;
  std::shared_ptr<Storage> lender;  // of `data`, where that is borrowed

  Storage(std::shared_ptr<Memory> owner, int64_t bytes, bool borrowing)
      : memory(std::move(owner)),
        data(borrowing ? nullptr : static_cast<std::byte*>(memory->allocate(bytes))),
        num_bytes(bytes),
        borrows(borrowing) {}
  ~Storage() {
    if (borrows) return;
    std::vector<Event> pending;
    try {
      for (const auto& stream : other_streams) pending.push_back(stream->record());
    } catch (const Error&) {
      // The GPU is lost, and its streams do no more work.
    }
    memory->release(data, num_bytes, std::move(pending));
  }
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
};

int64_t num_elements(const Shape& shape) {
  int64_t count = 1;
  bool empty = false;
  for (int64_t extent : shape) {
    LONGSHIP_CHECK(extent >= 0, "negative extent in shape {}", shape_string(shape));
    empty |= extent == 0;
    // Extents of 0 count as 1 here, so that strides cannot overflow either.
    LONGSHIP_CHECK(!__builtin_mul_overflow(count, std::max<int64_t>(extent, 1), &count),
                   "shape {} overflows 64 bits", shape_string(shape));
  }
  return empty ? 0 : count;
}

std::string shape_string(const Shape& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

Tensor Tensor::make(const std::shared_ptr<Memory>& memory, Shape shape, DType dtype, bool borrows) {
  LONGSHIP_CHECK(memory != nullptr, "a tensor needs a Memory");
  Tensor tensor;
  tensor.numel_ = num_elements(shape);
  tensor.strides_ = packed_strides(shape);
  tensor.shape_ = std::move(shape);
  tensor.dtype_ = dtype;
  int64_t bytes = 0;
  LONGSHIP_CHECK(!__builtin_mul_overflow(tensor.numel_, dtype_size(dtype), &bytes),
                 "shape {} overflows 64 bits", shape_string(tensor.shape_));
  tensor.storage_ = std::make_shared<Storage>(memory, bytes, borrows);
  return tensor;
}

Tensor Tensor::empty(const std::shared_ptr<Memory>& memory, Shape shape, DType dtype) {
  return make(memory, std::move(shape), dtype, /*borrows=*/false);
}

Tensor Tensor::zeros(const std::shared_ptr<Memory>& memory, Shape shape, DType dtype) {
  Tensor tensor = empty(memory, std::move(shape), dtype);
  tensor.fill_zero();
  return tensor;
}

Tensor Tensor::without_elements(const std::shared_ptr<Memory>& memory, Shape shape, DType dtype) {
  return make(memory, std::move(shape), dtype, /*borrows=*/true);
}

void Tensor::borrow(const Tensor& lender) const {
  LONGSHIP_CHECK(storage_->borrows && lender.is_contiguous() && lender.memory() == memory() &&
                     lender.dtype_ == dtype_ && lender.num_bytes() == storage_->num_bytes,
                 "{} cannot be the elements of {}", shape_string(lender.shape_),
                 shape_string(shape_));
  storage_->data = lender.address();
  storage_->lender = lender.storage_;
}

void Tensor::give_back() const {
  LONGSHIP_CHECK(storage_->borrows, "a tensor that owns its elements gives them back");
  storage_->data = nullptr;
  storage_->lender.reset();
}

template <class T>
Tensor Tensor::from(const std::shared_ptr<Memory>& memory, Shape shape, std::span<const T> values) {
  Tensor tensor = empty(memory, std::move(shape), DTypeOf<T>::value);
  LONGSHIP_CHECK(static_cast<int64_t>(values.size()) == tensor.numel(), "{} values for shape {}",
                 values.size(), shape_string(tensor.shape()));
  if (tensor.device().kind != DeviceKind::kCpu || !tensor.has_elements())
    return from(std::make_shared<Memory>(), tensor.shape(), values).to(memory);
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
  LONGSHIP_CHECK(
      device().kind == DeviceKind::kCpu && has_elements(),
      "elements of {}, used on the CPU: the op has no code for that device",
      memory()->has_elements() ? "a tensor on " + device_name(device()) : "memory for planning");
  return address();
}

std::byte* Tensor::address() const {
  LONGSHIP_CHECK(defined(), "undefined tensor");
  LONGSHIP_CHECK(storage_->data != nullptr || storage_->num_bytes == 0,
                 "elements of a tensor {} that has none now: they are elsewhere",
                 shape_string(shape_));
  return storage_->data + offset_ * dtype_size(dtype_);
}

Tensor Tensor::reshape(Shape shape) const {
  LONGSHIP_CHECK(is_contiguous(), "reshape needs a contiguous tensor");
  if (auto wild = std::find(shape.begin(), shape.end(), -1); wild != shape.end()) {
    *wild = 1;
    const int64_t known = num_elements(shape);
    *wild = known == 0 ? 0 : numel_ / known;
  }
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

Tensor Tensor::to(const std::shared_ptr<Memory>& memory) const {
  if (memory == this->memory()) return *this;
  Tensor copy = empty(memory, shape_, dtype_);
  copy.copy_from(*this);
  return copy;
}

void Tensor::copy_from(const Tensor& source) const {
  LONGSHIP_CHECK(shape_ == source.shape_, "copy of {} into {}", shape_string(source.shape_),
                 shape_string(shape_));
  if (numel_ == 0 || !has_elements()) return;
  if (device().kind != DeviceKind::kCpu || source.device().kind != DeviceKind::kCpu)
    return device_copy(*this, source);
  strided_copy(shape_, {raw(), dtype_, strides_}, {source.raw(), source.dtype_, source.strides_});
}

void Tensor::fill_zero() const {
  if (is_contiguous()) return memory()->fill(address(), 0, num_bytes());
  copy_from(zeros(memory(), shape_, dtype_));
}

void Tensor::used_on(const std::shared_ptr<const Stream>& stream) const {
  LONGSHIP_CHECK(stream != nullptr, "no stream");
  if (stream == memory()->stream()) return;
  Storage& owner = storage_->lender != nullptr ? *storage_->lender : *storage_;
  auto& others = owner.other_streams;
  if (std::find(others.begin(), others.end(), stream) == others.end()) others.push_back(stream);
}

}  // namespace longship
